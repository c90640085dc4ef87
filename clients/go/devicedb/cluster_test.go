package devicedb_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"testing"

	"devicedb.example/go/devicedb"
)

// cluster is a real one: conformance/cluster.py or mesh.py, spoken with in lines of JSON.
type cluster struct {
	Endpoints []string
	Proxy     string
	// Through is where one gets to it by Envoy.
	Through map[string]string
	Dir     string
	Callers map[string]caller
	orders  io.WriteCloser
	answers *bufio.Reader
	process *exec.Cmd
}

// caller is which files a client of some kind has.
type caller struct {
	CA, Cert, Key string
	ServerName    string `json:"server_name"`
	TokenFile     string `json:"token_file"`
}

func (c caller) files() *devicedb.TLSFiles {
	return &devicedb.TLSFiles{CA: c.CA, Cert: c.Cert, Key: c.Key, ServerName: c.ServerName}
}

func startCluster(t *testing.T, words ...string) *cluster {
	t.Helper()
	return startProgram(t, "cluster.py", words...)
}

func startProgram(t *testing.T, name string, words ...string) *cluster {
	t.Helper()
	python := os.Getenv("PYTHON")
	if python == "" {
		python = "python3"
	}
	c := &cluster{process: exec.Command(python, append([]string{"../../conformance/" + name}, words...)...)}
	c.process.Stderr = os.Stderr
	var err error
	if c.orders, err = c.process.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := c.process.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	c.answers = bufio.NewReader(out)
	if err := c.process.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = c.orders.Close()
		if err := c.process.Wait(); err != nil {
			t.Errorf("the cluster ended with %v", err)
		}
	})
	line, err := c.answers.ReadBytes('\n')
	if err != nil {
		t.Fatalf("the cluster did not come up: %v", err)
	}
	if err := json.Unmarshal(line, c); err != nil {
		t.Fatal(err)
	}
	return c
}

func (c *cluster) do(name string, args ...any) (any, error) {
	if args == nil {
		args = []any{}
	}
	if err := json.NewEncoder(c.orders).Encode(map[string]any{"do": name, "args": args}); err != nil {
		return nil, err
	}
	line, err := c.answers.ReadBytes('\n')
	if err != nil {
		return nil, fmt.Errorf("the cluster is gone: %w", err)
	}
	var answer struct {
		OK    any
		Error string
	}
	if err := json.Unmarshal(line, &answer); err != nil {
		return nil, err
	}
	if answer.Error != "" {
		return nil, fmt.Errorf("%s: %s", name, answer.Error)
	}
	return answer.OK, nil
}
