package devicedb_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"devicedb.example/go/devicedb"
	"devicedb.example/go/devicedbv1"
)

const secret = "ddb_0123abcd_a-secret-of-43-characters"

// certificates makes a CA, and two clients of it.
func certificates(t *testing.T) string {
	t.Helper()
	bin := os.Getenv("DEVICEDB_BIN")
	if bin == "" {
		bin = "../../../target/debug"
	}
	dir := filepath.Join(t.TempDir(), "certs")
	for _, words := range [][]string{{"init"}, {"client", "ops", "other", "--admin"}} {
		words = append(append([]string{"cert"}, words...), "--dir", dir)
		if out, err := exec.Command(filepath.Join(bin, "ddbctl"), words...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	return dir
}

func TestAFileThatCannotBeUsedIsNamedBeforeAnythingIsSent(t *testing.T) {
	dir := certificates(t)
	in := func(name string) string { return filepath.Join(dir, name) }
	if err := os.WriteFile(in("half.key"), []byte("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	good := devicedb.TLSFiles{CA: in("ca.crt"), Cert: in("admin-ops.crt"), Key: in("admin-ops.key")}
	for _, one := range []struct {
		change func(*devicedb.TLSFiles)
		kind   devicedb.Kind
		says   string
	}{
		{func(f *devicedb.TLSFiles) { f.CA = "" }, devicedb.ErrInvalidArgument, "TLS.CA is missing"},
		{func(f *devicedb.TLSFiles) { f.Key = "" }, devicedb.ErrInvalidArgument, "belong together"},
		{func(f *devicedb.TLSFiles) { f.CA = in("none.crt") }, devicedb.ErrLocalFile, "none.crt: no such file"},
		{func(f *devicedb.TLSFiles) { f.CA = in("admin-ops.key") }, devicedb.ErrLocalFile, "admin-ops.key: no certificate stands there"},
		{func(f *devicedb.TLSFiles) { f.Cert = in("admin-ops.key") }, devicedb.ErrLocalFile, "admin-ops.key: no certificate stands there"},
		{func(f *devicedb.TLSFiles) { f.Key = in("admin-ops.crt") }, devicedb.ErrLocalFile, "admin-ops.crt: no private key stands there"},
		{func(f *devicedb.TLSFiles) { f.Key = in("admin-other.key") }, devicedb.ErrLocalFile, "admin-other.key: it is not the key of"},
		{func(f *devicedb.TLSFiles) { f.Key = in("half.key") }, devicedb.ErrLocalFile, "half.key cannot be used"},
		{func(f *devicedb.TLSFiles) { f.Key = dir }, devicedb.ErrLocalFile, "is a directory"},
	} {
		files := good
		one.change(&files)
		_, err := devicedb.Open("127.0.0.1:1", devicedb.Options{TLS: &files})
		wants(t, err, one.kind, one.says)
	}
	_, err := devicedb.Open("127.0.0.1:1", devicedb.Options{TLS: &good, Token: secret})
	wants(t, err, devicedb.ErrInvalidArgument, "two callers")
	if client, err := devicedb.Open("127.0.0.1:1", devicedb.Options{TLS: &good}); err != nil || client.Close() != nil {
		t.Fatal(err)
	}
}

func TestATokenIsNeverToldNorSentInTheOpen(t *testing.T) {
	options := devicedb.Options{Token: secret}
	told := fmt.Sprintf("%v %+v %#v %s", options, options, options, options.Token)
	if text, err := json.Marshal(options.Token); err != nil || strings.Contains(told+string(text), secret) {
		t.Errorf("%s %s", told, text)
	}
	_, err := devicedb.Open("127.0.0.1:1,db.example:8080", options)
	wants(t, err, devicedb.ErrInvalidArgument, "not sent without TLS, and db.example:8080 is another machine")
	options.TokenFile = "t"
	_, err = devicedb.Open("127.0.0.1:1", options)
	wants(t, err, devicedb.ErrInvalidArgument, "both given")
	_, err = devicedb.Open("127.0.0.1:1", devicedb.Options{TokenFile: "/no/such/token"})
	wants(t, err, devicedb.ErrLocalFile, "/no/such/token: no such file")
	_, err = devicedb.Open("127.0.0.1:1", devicedb.Options{Token: "two words"})
	wants(t, err, devicedb.ErrLocalFile, "no token")
}

func TestATokenGoesWithEveryCallAndIsReadAgainWhenItsFileChanges(t *testing.T) {
	path := filepath.Join(t.TempDir(), "token")
	write := func(text string) {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(secret + "\n")
	var said []string
	f := &fake{
		noteGet: func(ctx context.Context) {
			told, _ := metadata.FromIncomingContext(ctx)
			said = append(said, told.Get("authorization")...)
		},
		get: func() (*devicedbv1.GetResponse, error) { return &devicedbv1.GetResponse{}, nil },
	}
	f.serve(t, time.Second)
	client, err := devicedb.Open(f.endpoint, devicedb.Options{TokenFile: path})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = client.Close() }()
	for _, text := range []string{"", "\n", "ddb_next"} {
		if _, err := client.Get(context.Background(), "s", []byte("k")); err != nil {
			t.Fatal(err)
		}
		write(text)
	}
	if _, err := client.Get(context.Background(), "s", []byte("k")); err != nil {
		t.Fatal(err)
	}
	// While its file is being written anew, the token before stays in use.
	wanted := []string{"Bearer " + secret, "Bearer " + secret, "Bearer " + secret, "Bearer ddb_next"}
	if !slices.Equal(said, wanted) {
		t.Errorf("%q", said)
	}
}

func TestWhoIsNotKnownIsAlsoNotPermitted(t *testing.T) {
	asked := 0
	f := &fake{get: func() (*devicedbv1.GetResponse, error) {
		asked++
		return nil, status.Error(codes.Unauthenticated, "no certificate was given")
	}}
	_, err := f.serve(t, time.Second).Get(context.Background(), "s", []byte("k"))
	wants(t, err, devicedb.ErrUnauthenticated, "no certificate was given")
	if !errors.Is(err, devicedb.ErrNotPermitted) || asked != 1 {
		t.Errorf("%v, asked %d times", err, asked)
	}
}
