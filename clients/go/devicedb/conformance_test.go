package devicedb_test

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/zeebo/blake3"

	"devicedb.example/go/devicedb"
	"devicedb.example/go/devicedbv1"
)

// runner runs clients/conformance/suite.json; clients/conformance/README.md says what stands there.
type runner struct {
	t         *testing.T
	cluster   *cluster
	client    *devicedb.Client
	endpoints string
	run, dir  string
	proxy     bool
	// over ends the load.
	over       chan struct{}
	saved      map[string]any
	background map[string]chan error
}

type step struct {
	Call, Cluster, Join, Write, Flip, Only, Error, Says, Background string
	Args, Expect, Files                                             map[string]any
	Save                                                            map[string]string
	With                                                            []any
	Bytes                                                           any
	At, Times, Cut                                                  int
	Timeout, Within, Idle                                           float64
	During                                                          *struct {
		AfterBytes int `json:"after_bytes"`
		Cluster    string
		With       []any
	}
	Stall *struct {
		AfterBytes int `json:"after_bytes"`
		Seconds    float64
	}
}

type fields = map[string]any

type scenario struct {
	Name  string
	Slow  bool
	Steps []json.RawMessage
}

func readSuite(t *testing.T, name string) (suite []scenario) {
	t.Helper()
	text, err := os.ReadFile("../../conformance/" + name)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, &suite); err != nil {
		t.Fatal(err)
	}
	return suite
}

func TestTheClientDoesTheSameOverMutualTLS(t *testing.T) {
	running := startCluster(t, "--secured")
	r := newRunner(t, running, strings.Join(running.Endpoints, ","), "go-secured")
	r.play(append(quickSuite(t), readSuite(t, "secured.json")...))
}

// quickSuite is all but what takes long, and but the end, which closes the client.
func quickSuite(t *testing.T) []scenario {
	t.Helper()
	plain := readSuite(t, "suite.json")
	return slices.DeleteFunc(plain[:len(plain)-1], func(one scenario) bool { return one.Slow })
}

func TestTheClientDoesTheSameThroughEnvoy(t *testing.T) {
	running := startProgram(t, "mesh.py")
	mesh := readSuite(t, "mesh.json")
	// First what looks at a cluster that has stood still, then what kills nodes.
	t.Run("gateway", func(t *testing.T) {
		newRunner(t, running, running.Through["gateway"], "go-gateway").play(append(quickSuite(t), mesh...))
	})
	t.Run("passed", func(t *testing.T) { newRunner(t, running, running.Through["passed"], "go-passed").play(mesh) })
}

func newRunner(t *testing.T, running *cluster, endpoints, run string) *runner {
	t.Helper()
	r := &runner{t: t, cluster: running, endpoints: endpoints, run: run, dir: t.TempDir(), proxy: endpoints == running.Proxy, saved: fields{},
		background: map[string]chan error{}, over: make(chan struct{})}
	client, err := devicedb.Open(endpoints, r.who())
	if err != nil {
		t.Fatal(err)
	}
	r.client = client
	return r
}

// who are the options of the client that may do all that the suite does.
func (r *runner) who() (options devicedb.Options) {
	for _, name := range []string{"ops", "till"} {
		if files, ok := r.cluster.Callers[name]; ok {
			options.TLS = files.files()
		}
	}
	return options
}

func (r *runner) play(suite []scenario) {
	for _, one := range suite {
		began := time.Now()
		for i, raw := range one.Steps {
			var s step
			if err := json.Unmarshal(raw, &s); err != nil {
				r.t.Fatal(err)
			}
			if err := r.step(s); err != nil {
				r.t.Fatalf("%s, step %d: %s: %v", one.Name, i, raw, err)
			}
		}
		r.t.Logf("%5.1f s  %s", time.Since(began).Seconds(), one.Name)
	}
}

func TestTheClientDoesWhatTheSuiteSays(t *testing.T) {
	suite := readSuite(t, "suite.json")
	running := startCluster(t)
	t.Run("direct", func(t *testing.T) {
		newRunner(t, running, strings.Join(running.Endpoints, ","), "go-direct").play(suite)
	})
	t.Run("proxy", func(t *testing.T) { newRunner(t, running, running.Proxy, "go-proxy").play(suite) })
}

// value is what stands in the suite, with what is saved and the name of the run put in.
func (r *runner) value(v any) any {
	switch v := v.(type) {
	case map[string]any:
		if name, ok := v["$"]; ok {
			return r.saved[name.(string)]
		}
		if digits, ok := v["hex"]; ok {
			data, err := hex.DecodeString(digits.(string))
			if err != nil {
				r.t.Fatal(err)
			}
			return data
		}
		if seed, ok := v["random"]; ok {
			return random(seed.(string), int(v["bytes"].(float64)))
		}
		return v
	case string:
		return strings.ReplaceAll(v, "$run", r.run)
	case []any:
		all := make([]any, len(v))
		for i := range v {
			all[i] = r.value(v[i])
		}
		return all
	}
	return v
}

func random(seed string, size int) []byte {
	hasher := blake3.New()
	_, _ = hasher.WriteString(seed)
	data := make([]byte, size)
	_, _ = hasher.Digest().Read(data)
	return data
}

func (r *runner) bytes(v any) []byte {
	switch v := r.value(v).(type) {
	case []byte:
		return v
	case string:
		return []byte(v)
	}
	return nil
}

func (r *runner) text(v any) string {
	return fmt.Sprint(r.value(v))
}

func (r *runner) equal(expected, found any) bool {
	switch found := found.(type) {
	case []byte:
		return bytes.Equal(r.bytes(expected), found)
	case [][]byte:
		return each(r, expected, found)
	case [][][]byte:
		return each(r, expected, found)
	case []string:
		return each(r, expected, found)
	}
	return r.text(expected) == fmt.Sprint(found)
}

func each[T any](r *runner, expected any, found []T) bool {
	all, ok := expected.([]any)
	if !ok || len(all) != len(found) {
		return false
	}
	for i := range all {
		if !r.equal(all[i], found[i]) {
			return false
		}
	}
	return true
}

func (r *runner) step(s step) error {
	if s.Only == "proxy" && !r.proxy {
		return nil
	}
	switch {
	case s.Call != "" && s.Background != "":
		done := make(chan error, 1)
		r.background[s.Background] = done
		go func() { done <- r.call(s) }()
	case s.Call != "":
		for range max(1, s.Times) {
			if err := r.call(s); err != nil {
				return err
			}
		}
	case s.Cluster != "":
		return r.order(s.Cluster, s.With)
	case s.Join != "":
		select {
		case err := <-r.background[s.Join]:
			return err
		case <-time.After(time.Minute):
			return errors.New("it does not end")
		}
	case s.Idle > 0:
		time.Sleep(time.Duration(s.Idle * float64(time.Second)))
	case s.Write != "":
		return os.WriteFile(r.path(s.Write), r.bytes(s.Bytes), 0o666)
	case s.Flip != "":
		data, err := os.ReadFile(r.path(s.Flip))
		if err != nil {
			return err
		}
		data[s.At] ^= 1
		return os.WriteFile(r.path(s.Flip), data, 0o666)
	default:
		for name, wanted := range s.Files {
			if _, err := os.Stat(r.path(name)); (err == nil) != (wanted == "present") {
				return fmt.Errorf("%s should be %s", name, wanted)
			}
		}
	}
	return nil
}

func (r *runner) path(name string) string { return filepath.Join(r.dir, name) }

func (r *runner) order(name string, with []any) error {
	var args []any
	for _, arg := range with {
		args = append(args, r.value(arg))
	}
	switch name {
	case "verify":
		var paths []string
		for _, one := range args[0].([]any) {
			paths = append(paths, r.path(one.(string)))
		}
		args = []any{paths}
	case "damage":
		args[1] = fmt.Sprint(args[1])
	}
	answer, err := r.cluster.do(name, args...)
	if name != "rotate" || err != nil {
		return err
	}
	text, err := json.Marshal(answer)
	if err != nil {
		return err
	}
	return json.Unmarshal(text, &r.cluster.Callers)
}

var kinds = map[string]devicedb.Kind{
	"InvalidArgument": devicedb.ErrInvalidArgument, "NotFound": devicedb.ErrNotFound, "Conflict": devicedb.ErrConflict,
	"Unavailable": devicedb.ErrUnavailable, "UnknownOutcome": devicedb.ErrUnknownOutcome, "Exhausted": devicedb.ErrExhausted,
	"Corrupt": devicedb.ErrCorrupt, "NotPermitted": devicedb.ErrNotPermitted, "Unsupported": devicedb.ErrUnsupported,
	"LocalFile": devicedb.ErrLocalFile, "Closed": devicedb.ErrClosed, "Failed": devicedb.ErrFailed,
	"OtherCluster": devicedb.ErrOtherCluster, "Unauthenticated": devicedb.ErrUnauthenticated,
}

func (r *runner) call(s step) error {
	ctx, cancel := context.Background(), context.CancelFunc(func() {})
	if s.Timeout > 0 && s.Call != "download" && s.Call != "scan" {
		ctx, cancel = context.WithTimeout(ctx, time.Duration(s.Timeout*float64(time.Second)))
	}
	defer cancel()
	began := time.Now()
	result, err := calls[s.Call](ctx, r, s, func(name string) any { return r.value(s.Args[name]) })
	if took := time.Since(began).Seconds(); s.Within > 0 && took > s.Within {
		return fmt.Errorf("it took %.1f s", took)
	}
	var e *devicedb.Error
	switch {
	case err == nil && s.Error != "":
		return fmt.Errorf("it should end as %s and gave %v", s.Error, result)
	case err != nil && (s.Error == "" || !errors.As(err, &e) || !errors.Is(err, kinds[s.Error])):
		return err
	case err != nil:
		if says := r.text(s.Says); s.Says != "" && !strings.Contains(err.Error(), says) || strings.Contains(err.Error(), "\n") {
			return fmt.Errorf("it should say %q: %w", says, err)
		}
		result = fields{"request_id": e.RequestID}
	}
	for name, expected := range s.Expect {
		if !r.equal(expected, result[name]) {
			return fmt.Errorf("%s should be %.200v and is %.200v", name, r.value(expected), result[name])
		}
	}
	for name, field := range s.Save {
		head, index, _ := strings.Cut(field, ".")
		found := result[head]
		i, _ := strconv.Atoi(index)
		switch all := found.(type) {
		case []uint64:
			found = all[i]
		case []string:
			found = all[i]
		}
		r.saved[name] = found
	}
	return nil
}

func (r *runner) options(s step) (options []devicedb.Option) {
	for name, v := range s.Args {
		switch name {
		case "bucket":
			options = append(options, devicedb.InBucket(devicedb.Bucket(devicedbv1.Bucket_value["BUCKET_"+v.(string)])))
		case "context":
			options = append(options, devicedb.WithContext(r.bytes(v)))
		case "timestamp_ms":
			options = append(options, devicedb.WithTimestampMs(uint64(v.(float64))))
		case "request_id":
			options = append(options, devicedb.WithRequestID(r.bytes(v)))
		case "after":
			options = append(options, devicedb.After(r.bytes(v)))
		case "limit":
			options = append(options, devicedb.Limit(uint64(v.(float64))))
		case "keys_only":
			options = append(options, devicedb.KeysOnly())
		case "stale":
			options = append(options, devicedb.Stale())
		case "wait":
			options = append(options, devicedb.Wait())
		case "uuid":
			options = append(options, devicedb.WithUUID(r.text(v)))
		}
	}
	return options
}

func values(siblings []*devicedbv1.Sibling) [][]byte {
	all := [][]byte{}
	for _, sibling := range siblings {
		all = append(all, sibling.GetValue())
	}
	slices.SortFunc(all, bytes.Compare)
	return all
}

type getter = func(string) any

var calls = map[string]func(context.Context, *runner, step, getter) (fields, error){
	"get": func(ctx context.Context, r *runner, s step, a getter) (fields, error) {
		got, err := r.client.Get(ctx, a("site").(string), r.bytes(s.Args["key"]), r.options(s)...)
		return fields{"values": values(got.GetSiblings()), "context": got.GetContext(), "leader": got.GetLeader().GetAddress()}, err
	},
	"put": func(ctx context.Context, r *runner, s step, a getter) (fields, error) {
		done, err := r.client.Put(ctx, a("site").(string), r.bytes(s.Args["key"]), r.bytes(s.Args["value"]), r.options(s)...)
		return fields{"superseded": done.GetSuperseded(), "context": done.GetContext()}, err
	},
	"delete": func(ctx context.Context, r *runner, s step, a getter) (fields, error) {
		done, err := r.client.Delete(ctx, a("site").(string), r.bytes(s.Args["key"]), r.options(s)...)
		return fields{"superseded": done.GetSuperseded(), "context": done.GetContext()}, err
	},
	"batch": func(ctx context.Context, r *runner, s step, a getter) (fields, error) {
		var operations []devicedb.Operation
		for _, one := range s.Args["operations"].([]any) {
			o := one.(map[string]any)
			if key, ok := o["put"]; ok {
				operations = append(operations, devicedb.Put{Key: r.bytes(key), Value: r.bytes(o["value"])})
			} else {
				operations = append(operations, devicedb.Delete{Key: r.bytes(o["delete"])})
			}
		}
		done, err := r.client.Batch(ctx, a("site").(string), operations)
		return fields{"count": len(done.GetResults())}, err
	},
	"fill": func(ctx context.Context, r *runner, s step, a getter) (fields, error) {
		for first := 0; first < int(a("count").(float64)); first += 2500 {
			var operations []devicedb.Operation
			for n := first; n < min(first+2500, int(a("count").(float64))); n++ {
				operations = append(operations, devicedb.Put{Key: fmt.Appendf(nil, "%05d", n), Value: fmt.Appendf(nil, "value-%d", n)})
			}
			if _, err := r.client.Batch(ctx, a("site").(string), operations); err != nil {
				return nil, err
			}
		}
		return fields{}, nil
	},
	"bulk": func(ctx context.Context, r *runner, s step, a getter) (fields, error) {
		for n := range int(a("count").(float64)) {
			value := random(strconv.Itoa(n), int(a("bytes").(float64)))
			if _, err := r.client.Put(ctx, a("site").(string), fmt.Appendf(nil, "%05d", n), value); err != nil {
				return nil, err
			}
		}
		return fields{}, nil
	},
	"scan": func(ctx context.Context, r *runner, s step, a getter) (fields, error) {
		keys, all := [][]byte{}, [][][]byte{}
		for entry, err := range r.client.Scan(ctx, a("site").(string), r.bytes(s.Args["prefix"]), r.options(s)...) {
			if err != nil {
				return nil, err
			}
			keys, all = append(keys, entry.GetKey()), append(all, values(entry.GetSiblings()))
		}
		result := fields{"count": len(keys), "keys": keys, "values": all, "sorted": slices.IsSortedFunc(keys, bytes.Compare)}
		if len(keys) > 0 {
			result["first"], result["last"] = keys[0], keys[len(keys)-1]
		}
		return result, nil
	},
	"overview": func(ctx context.Context, r *runner, s step, a getter) (fields, error) {
		o, err := r.client.Overview(ctx)
		return fields{
			"nodes": len(o.GetNodes()), "ready": ready(o.GetNodes()), "partitions": o.GetPartitions(), "groups": o.GetGroups(),
			"replication_factor": o.GetReplicationFactor(), "groups_without_leader": o.GetGroupsWithoutLeader(), "cluster_id": o.GetClusterId(),
		}, err
	},
	"meaning": func(ctx context.Context, r *runner, s step, a getter) (fields, error) {
		options := r.who()
		options.ClusterID = a("cluster_id").(string)
		client, err := devicedb.Open(r.endpoints, options)
		if err != nil {
			return nil, err
		}
		defer func() { _ = client.Close() }()
		o, err := client.Overview(ctx)
		return fields{"nodes": len(o.GetNodes())}, err
	},
	"nodes": func(ctx context.Context, r *runner, s step, a getter) (fields, error) {
		nodes, err := r.client.Nodes(ctx)
		return fields{"count": len(nodes), "ready": ready(nodes)}, err
	},
	"partitions": func(ctx context.Context, r *runner, s step, a getter) (fields, error) {
		partitions, err := r.client.Partitions(ctx)
		led := 0
		for _, partition := range partitions {
			if partition.GetLeader() != 0 {
				led++
			}
		}
		return fields{"count": len(partitions), "led": led}, err
	},
	"add_site": func(ctx context.Context, r *runner, s step, a getter) (fields, error) {
		done, err := r.client.Sites.Add(ctx, a("site").(string))
		return fields{"created": done.GetCreated(), "site": done.GetSite().GetId()}, err
	},
	"remove_site": func(ctx context.Context, r *runner, s step, a getter) (fields, error) {
		return fields{}, r.client.Sites.Remove(ctx, a("site").(string))
	},
	"sites": func(ctx context.Context, r *runner, s step, a getter) (fields, error) {
		sites, err := r.client.Sites.List(ctx)
		names := []string{}
		for _, site := range sites {
			if strings.HasPrefix(site.GetId(), r.run) {
				names = append(names, site.GetId())
			}
		}
		sort.Strings(names)
		return fields{"names": names}, err
	},
	"add_relay": func(ctx context.Context, r *runner, s step, a getter) (fields, error) {
		done, err := r.client.Relays.Add(ctx, a("relay").(string), a("site").(string))
		return fields{"created": done.GetCreated(), "relay": done.GetRelay().GetId(), "site": done.GetRelay().GetSite()}, err
	},
	"move_relay": func(ctx context.Context, r *runner, s step, a getter) (fields, error) {
		relay, err := r.client.Relays.Move(ctx, a("relay").(string), a("site").(string))
		return fields{"relay": relay.GetId(), "site": relay.GetSite()}, err
	},
	"remove_relay": func(ctx context.Context, r *runner, s step, a getter) (fields, error) {
		return fields{}, r.client.Relays.Remove(ctx, a("relay").(string))
	},
	"relays": func(ctx context.Context, r *runner, s step, a getter) (fields, error) {
		relays, err := r.client.Relays.List(ctx, a("site").(string))
		names := []string{}
		for _, relay := range relays {
			names = append(names, relay.GetId())
		}
		return fields{"names": names}, err
	},
	"create": func(ctx context.Context, r *runner, s step, a getter) (fields, error) {
		snapshot, err := r.client.Snapshots.Create(ctx, r.options(s)...)
		return told(snapshot), err
	},
	"status": func(ctx context.Context, r *runner, s step, a getter) (fields, error) {
		snapshot, err := r.client.Snapshots.Status(ctx, a("uuid").(string))
		return told(snapshot), err
	},
	"snapshots": func(ctx context.Context, r *runner, s step, a getter) (fields, error) {
		snapshots, err := r.client.Snapshots.List(ctx)
		if err != nil {
			return nil, err
		}
		return fields{"newest": snapshots[0].GetUuid()}, nil
	},
	"delete_snapshot": func(ctx context.Context, r *runner, s step, a getter) (fields, error) {
		return fields{}, r.client.Snapshots.Delete(ctx, a("uuid").(string))
	},
	"download": download,
	"verify": func(ctx context.Context, r *runner, s step, a getter) (fields, error) {
		var paths []string
		for _, name := range a("paths").([]any) {
			paths = append(paths, r.path(name.(string)))
		}
		parts, err := devicedb.Verify(paths...)
		snapshots := []string{}
		for _, part := range parts {
			if !slices.Contains(snapshots, part.Snapshot) {
				snapshots = append(snapshots, part.Snapshot)
			}
		}
		return fields{"parts": len(parts), "snapshots": snapshots}, err
	},
	"caller": func(ctx context.Context, r *runner, s step, a getter) (fields, error) {
		options := devicedb.Options{}
		if who, ok := a("who").(string); ok {
			options.TLS, options.TokenFile = r.cluster.Callers[who].files(), r.cluster.Callers[who].TokenFile
		}
		endpoints := r.endpoints
		if by, ok := a("by").(string); ok {
			endpoints = r.cluster.Through[by]
		}
		client, err := devicedb.Open(endpoints, options)
		if err != nil {
			return nil, err
		}
		defer func() { _ = client.Close() }()
		nodes, err := client.Nodes(ctx)
		return fields{"nodes": len(nodes)}, err
	},
	"load": func(ctx context.Context, r *runner, s step, a getter) (fields, error) {
		site, count, keys := a("site").(string), 0, 0
		for ; ; count++ {
			select {
			case <-r.over:
				for _, err := range r.client.Scan(ctx, site, nil, devicedb.KeysOnly()) {
					if err != nil {
						return nil, err
					}
					keys++
				}
				if least := int(a("least").(float64)); count < least {
					return nil, fmt.Errorf("only %d rounds", count)
				}
				return fields{"kept": keys == count}, nil
			default:
			}
			key, value := fmt.Appendf(nil, "%05d", count), fmt.Appendf(nil, "%d", count)
			if _, err := r.client.Put(ctx, site, key, value); err != nil {
				return nil, err
			}
			got, err := r.client.Get(ctx, site, key)
			if err != nil {
				return nil, err
			}
			if held := values(got.GetSiblings()); len(held) != 1 || !bytes.Equal(held[0], value) {
				return nil, fmt.Errorf("%s holds %q", key, held)
			}
		}
	},
	"end_load": func(ctx context.Context, r *runner, s step, a getter) (fields, error) {
		close(r.over)
		return fields{}, nil
	},
	"close": func(ctx context.Context, r *runner, s step, a getter) (fields, error) {
		return fields{}, r.client.Close()
	},
}

func download(ctx context.Context, r *runner, s step, a getter) (fields, error) {
	path := r.path(a("path").(string))
	before := int64(0)
	if info, err := os.Stat(devicedb.PartialPath(path)); err == nil {
		before = info.Size()
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	first, happened := int64(-1), false
	var wrong error
	progress := func(received, total uint64) {
		if first < 0 {
			first = int64(received)
		}
		switch {
		case happened:
		case s.Cut > 0 && int(received) >= s.Cut:
			happened = true
			cancel()
		case s.Stall != nil && int(received) >= s.Stall.AfterBytes:
			happened = true
			time.Sleep(time.Duration(s.Stall.Seconds * float64(time.Second)))
		case s.During != nil && int(received) >= s.During.AfterBytes:
			happened = true
			wrong = r.order(s.During.Cluster, s.During.With)
		}
	}
	node, _ := a("node").(uint64)
	client := r.client
	if s.Timeout > 0 {
		// What bounds a download is the client's timeout between two pieces.
		var err error
		options := r.who()
		options.Timeout = time.Duration(s.Timeout * float64(time.Second))
		if client, err = devicedb.Open(r.endpoints, options); err != nil {
			return nil, err
		}
		defer func() { _ = client.Close() }()
	}
	part, err := client.Snapshots.Download(ctx, a("uuid").(string), node, path, devicedb.OnBytes(progress))
	if wrong != nil {
		return nil, fmt.Errorf("during the download: %w", wrong)
	}
	if s.Cut > 0 {
		var e *devicedb.Error
		if !errors.Is(err, context.Canceled) || !errors.As(err, &e) || e.Partial != devicedb.PartialPath(path) || !strings.Contains(e.Message, e.Partial) {
			return nil, fmt.Errorf("a download that its caller ends should name its partial file: %w", err)
		}
		return fields{}, nil
	}
	if err != nil {
		return nil, err
	}
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	return fields{"whole": info.Size() == int64(part.Bytes), "digest": part.Digest, "node": part.NodeID, "resumed": before > 0 && first == before}, nil
}

func ready(nodes []*devicedbv1.Node) (count int) {
	for _, node := range nodes {
		if node.GetReady() {
			count++
		}
	}
	return count
}

func told(snapshot *devicedbv1.Snapshot) fields {
	nodes, addresses, completed := []uint64{}, []string{}, 0
	for _, part := range snapshot.GetParts() {
		nodes, addresses = append(nodes, part.GetNodeId()), append(addresses, part.GetAddress())
		if part.GetStatus() == devicedbv1.SnapshotStatus_SNAPSHOT_STATUS_COMPLETED {
			completed++
		}
	}
	status := strings.TrimPrefix(snapshot.GetStatus().String(), "SNAPSHOT_STATUS_")
	return fields{"uuid": snapshot.GetUuid(), "status": status, "parts": len(nodes), "completed": completed, "nodes": nodes, "addresses": addresses}
}
