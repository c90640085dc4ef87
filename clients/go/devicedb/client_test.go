package devicedb_test

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/zeebo/blake3"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	"devicedb.example/go/devicedb"
	"devicedb.example/go/devicedbv1"
)

const uuid = "19a7e40e-adcc-4cc2-87a7-ae599272b050"

// fake is a server that does what a test tells it. What it is not told is Unimplemented.
type fake struct {
	devicedbv1.UnimplementedKvServiceServer
	devicedbv1.UnimplementedClusterServiceServer
	devicedbv1.UnimplementedSnapshotServiceServer
	noteGet  func(context.Context)
	get      func() (*devicedbv1.GetResponse, error)
	put      func(*devicedbv1.PutRequest) (*devicedbv1.PutResponse, error)
	remove   func() error
	scan     func(*devicedbv1.ScanRequest, grpc.ServerStreamingServer[devicedbv1.ScanResponse]) error
	sites    func() *devicedbv1.ListSitesResponse
	create   func() *devicedbv1.Snapshot
	upload   func() *devicedbv1.Upload
	download func(*devicedbv1.DownloadSnapshotRequest, grpc.ServerStreamingServer[devicedbv1.DownloadSnapshotResponse]) error
	identity func() (*devicedbv1.GetIdentityResponse, error)
	endpoint string
}

func (f *fake) GetIdentity(context.Context, *devicedbv1.GetIdentityRequest) (*devicedbv1.GetIdentityResponse, error) {
	if f.identity == nil {
		return nil, status.Error(codes.Unimplemented, "older")
	}
	return f.identity()
}

func (f *fake) Get(ctx context.Context, _ *devicedbv1.GetRequest) (*devicedbv1.GetResponse, error) {
	if f.noteGet != nil {
		f.noteGet(ctx)
	}
	return f.get()
}
func (f *fake) Put(_ context.Context, q *devicedbv1.PutRequest) (*devicedbv1.PutResponse, error) {
	return f.put(q)
}
func (f *fake) RemoveSite(context.Context, *devicedbv1.RemoveSiteRequest) (*devicedbv1.RemoveSiteResponse, error) {
	return &devicedbv1.RemoveSiteResponse{}, f.remove()
}
func (f *fake) Scan(q *devicedbv1.ScanRequest, to grpc.ServerStreamingServer[devicedbv1.ScanResponse]) error {
	return f.scan(q, to)
}
func (f *fake) ListSites(context.Context, *devicedbv1.ListSitesRequest) (*devicedbv1.ListSitesResponse, error) {
	return f.sites(), nil
}
func (f *fake) CreateSnapshot(context.Context, *devicedbv1.CreateSnapshotRequest) (*devicedbv1.CreateSnapshotResponse, error) {
	return &devicedbv1.CreateSnapshotResponse{Snapshot: f.create()}, nil
}
func (f *fake) GetSnapshot(context.Context, *devicedbv1.GetSnapshotRequest) (*devicedbv1.GetSnapshotResponse, error) {
	return &devicedbv1.GetSnapshotResponse{Snapshot: f.create()}, nil
}
func (f *fake) UploadSnapshot(context.Context, *devicedbv1.UploadSnapshotRequest) (*devicedbv1.UploadSnapshotResponse, error) {
	return &devicedbv1.UploadSnapshotResponse{Upload: f.upload()}, nil
}
func (f *fake) DownloadSnapshot(q *devicedbv1.DownloadSnapshotRequest, to grpc.ServerStreamingServer[devicedbv1.DownloadSnapshotResponse]) error {
	return f.download(q, to)
}

// serve runs the fake until the test is over, and opens a client of it.
func (f *fake) serve(t *testing.T, timeout time.Duration) *devicedb.Client {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	devicedbv1.RegisterKvServiceServer(server, f)
	devicedbv1.RegisterClusterServiceServer(server, f)
	devicedbv1.RegisterSnapshotServiceServer(server, f)
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(server.Stop)
	f.endpoint = listener.Addr().String()
	return open(t, f.endpoint, timeout)
}

func open(t *testing.T, endpoints string, timeout time.Duration) *devicedb.Client {
	t.Helper()
	client, err := devicedb.Open(endpoints, devicedb.Options{Timeout: timeout})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() })
	return client
}

func refusal(t *testing.T, code codes.Code, reason, domain string) error {
	t.Helper()
	said := status.New(code, "told")
	if reason == "" {
		return said.Err()
	}
	detailed, err := said.WithDetails(&errdetails.ErrorInfo{Reason: reason, Domain: domain})
	if err != nil {
		t.Fatal(err)
	}
	return detailed.Err()
}

func TestAServerThatSaysHowLongToWaitIsAskedAgainNoEarlier(t *testing.T) {
	const rest = 600 * time.Millisecond
	var asked []time.Time
	f := &fake{get: func() (*devicedbv1.GetResponse, error) {
		asked = append(asked, time.Now())
		if len(asked) > 1 {
			return &devicedbv1.GetResponse{}, nil
		}
		said := status.New(codes.ResourceExhausted, "told")
		ours := &errdetails.ErrorInfo{Reason: "EXHAUSTED", Domain: "devicedb"}
		detailed, err := said.WithDetails(ours, &errdetails.RetryInfo{RetryDelay: durationpb.New(rest)})
		if err != nil {
			t.Error(err)
		}
		return nil, detailed.Err()
	}}
	client := f.serve(t, 100*time.Second)
	if _, err := client.Get(context.Background(), "s", []byte("k")); err != nil {
		t.Fatal(err)
	}
	if len(asked) != 2 || asked[1].Sub(asked[0]) < rest {
		t.Fatalf("it was asked at %v", asked)
	}
}

// wants is an error of this kind that says this.
func wants(t *testing.T, err error, kind devicedb.Kind, says string) *devicedb.Error {
	t.Helper()
	var e *devicedb.Error
	if !errors.As(err, &e) || !errors.Is(err, kind) || !strings.Contains(err.Error(), says) || strings.Contains(err.Error(), "\n") {
		t.Fatalf("it should be %v and say %q, and is %v", kind, says, err)
	}
	return e
}

func TestAnArgumentThatCanNeverWorkIsRefusedWithWhatToWrite(t *testing.T) {
	for _, endpoint := range []string{"", "node1", "http://node1:80", "node1:99999", ":80", "a:1,,b:2"} {
		_, err := devicedb.Open(endpoint, devicedb.Options{})
		wants(t, err, devicedb.ErrInvalidArgument, "is no endpoint: write host:port")
	}
	_, err := devicedb.Open("a:1", devicedb.Options{Timeout: -1})
	wants(t, err, devicedb.ErrInvalidArgument, "above 0")
	client, ctx := open(t, "127.0.0.1:1", 0), t.Context()
	_, err = client.Put(ctx, "s", nil, nil, devicedb.WithRequestID([]byte("short")))
	wants(t, err, devicedb.ErrInvalidArgument, "5 bytes and not 16")
	_, err = client.Get(ctx, "s", nil, devicedb.Wait())
	wants(t, err, devicedb.ErrInvalidArgument, `Get has no option "Wait"`)
	_, err = client.Snapshots.Status(ctx, "x")
	wants(t, err, devicedb.ErrInvalidArgument, `"x" is not a uuid`)
	_, err = client.Snapshots.Download(ctx, "x", 0, "f")
	wants(t, err, devicedb.ErrInvalidArgument, `"x" is not a uuid`)
	_, err = devicedb.Verify()
	wants(t, err, devicedb.ErrInvalidArgument, "no path was given")
}

const one, two = "5f1c8a9e-0b1d-4a53-9a29-6d4a3f5f0c11", "7a1c8a9e-0b1d-4a53-9a29-6d4a3f5f0c22"

// known is a fake that says who it is, and notes which cluster each get and scan was for.
func known(cluster, lineage string) (*fake, func() []string) {
	var mu sync.Mutex
	var meant []string
	note := func(ctx context.Context) {
		mu.Lock()
		defer mu.Unlock()
		said, _ := metadata.FromIncomingContext(ctx)
		meant = append(meant, strings.Join(said.Get("devicedb-cluster-id"), ","))
	}
	f := &fake{
		identity: func() (*devicedbv1.GetIdentityResponse, error) {
			return &devicedbv1.GetIdentityResponse{ClusterId: cluster, Lineage: lineage}, nil
		},
		noteGet: note,
		get:     func() (*devicedbv1.GetResponse, error) { return &devicedbv1.GetResponse{}, nil },
		scan: func(_ *devicedbv1.ScanRequest, to grpc.ServerStreamingServer[devicedbv1.ScanResponse]) error {
			note(to.Context())
			return nil
		},
	}
	return f, func() []string { mu.Lock(); defer mu.Unlock(); return meant }
}

// both are how a call and a stream end.
func both(t *testing.T, client *devicedb.Client) []error {
	t.Helper()
	_, get := client.Get(t.Context(), "s", []byte("k"))
	var scan error
	for _, err := range client.Scan(t.Context(), "s", nil) {
		scan = err
	}
	return []error{get, scan}
}

func TestEndpointsOfTwoClustersOrHistoriesAreRefusedByNameBeforeAnythingIsAsked(t *testing.T) {
	for _, c := range []struct{ cluster, lineage, says, first, second string }{
		{two, "2", "different clusters", "cluster " + one, "cluster " + two},
		{one, "2", "two histories", "lineage 1", "lineage 2"},
	} {
		f, meantF := known(one, "1")
		g, meantG := known(c.cluster, c.lineage)
		f.serve(t, 0)
		g.serve(t, 0)
		for _, err := range both(t, open(t, f.endpoint+","+g.endpoint, 0)) {
			wants(t, err, devicedb.ErrOtherCluster, c.says)
			wants(t, err, devicedb.ErrOtherCluster, fmt.Sprintf("%s to %s, %s to %s", f.endpoint, c.first, g.endpoint, c.second))
		}
		if asked := append(meantF(), meantG()...); len(asked) > 0 {
			t.Errorf("they were asked: %q", asked)
		}
	}
}

func TestEveryCallSaysWhichClusterItIsForOnceThatIsKnown(t *testing.T) {
	for _, c := range []struct{ first, second, pinned, meant string }{
		{one, one, "", one}, {"", one, "", one}, {"", "", "", ""}, {"older", one, "", one}, {"older", "older", "", ""}, {two, one, strings.ToUpper(one), one},
	} {
		f, meantF := known(c.first, "1")
		g, meantG := known(c.second, "1")
		for _, fake := range []*fake{f, g} {
			if said, _ := fake.identity(); said.GetClusterId() == "older" {
				fake.identity = nil
			} else if c.pinned != "" {
				fake.identity = func() (*devicedbv1.GetIdentityResponse, error) {
					t.Error("who named the cluster is not asked to compare")
					return nil, errors.New("asked")
				}
			}
		}
		f.serve(t, 0)
		g.serve(t, 0)
		client, err := devicedb.Open("127.0.0.1:1,"+f.endpoint+","+g.endpoint, devicedb.Options{ClusterID: c.pinned})
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(both(t, client)...); err != nil {
			t.Error(err)
		}
		if meant := append(meantF(), meantG()...); !slices.Equal(meant, []string{c.meant, c.meant}) {
			t.Errorf("%v: it meant %q", c, meant)
		}
		_ = client.Close()
	}
	alone, meant := known(one, "1")
	both(t, alone.serve(t, 0))
	t.Setenv("DDBCTL_CLUSTER_ID", two)
	both(t, open(t, alone.endpoint, 0))
	if !slices.Equal(meant(), []string{"", "", two, two}) {
		t.Errorf("one endpoint needs no comparison, and the environment is heard: %q", meant())
	}
	t.Setenv("DDBCTL_CLUSTER_ID", "")
	_, err := devicedb.Open(alone.endpoint, devicedb.Options{})
	wants(t, err, devicedb.ErrInvalidArgument, `"" is not the id of a cluster`)
}

func TestWhereNobodySaysWhoItIsNothingIsAskedAndTheReasonsAreTold(t *testing.T) {
	f, meant := known("", "")
	f.identity = func() (*devicedbv1.GetIdentityResponse, error) {
		return nil, refusal(t, codes.Unavailable, "UNAVAILABLE", "devicedb")
	}
	f.serve(t, 0)
	for _, err := range both(t, open(t, f.endpoint+",127.0.0.1:1", time.Second)) {
		wants(t, err, devicedb.ErrUnavailable, f.endpoint+" (told)")
	}
	if len(meant()) > 0 {
		t.Error("it was asked")
	}
}

func TestEveryAnswerEndsAsTheTableOfErrorsSays(t *testing.T) {
	text, err := os.ReadFile("../../conformance/errors.json")
	if err != nil {
		t.Fatal(err)
	}
	var table []struct {
		Code, Reason, Error   string
		Again, Slower, Unsure bool
	}
	if err := json.Unmarshal(text, &table); err != nil {
		t.Fatal(err)
	}
	for _, row := range table {
		t.Run(row.Code+"-"+row.Reason, func(t *testing.T) {
			t.Parallel()
			var code codes.Code
			if err := code.UnmarshalJSON([]byte(`"` + row.Code + `"`)); err != nil {
				t.Fatal(err)
			}
			// Calls end by their answers and not by their deadlines, whose last attempt may end otherwise on a busy machine: where the client asks
			// again, and was not asked to slow down, the third answer is a final one.
			final := refusal(t, codes.NotFound, "NOT_FOUND", "devicedb")
			told := func(asked int) error {
				if row.Again && !row.Slower && asked > 2 {
					return final
				}
				return refusal(t, code, row.Reason, "devicedb")
			}
			var mu sync.Mutex
			asked, ids := 0, []string{}
			f := &fake{
				get: func() (*devicedbv1.GetResponse, error) {
					mu.Lock()
					defer mu.Unlock()
					asked++
					return nil, told(asked)
				},
				put: func(q *devicedbv1.PutRequest) (*devicedbv1.PutResponse, error) {
					mu.Lock()
					defer mu.Unlock()
					ids = append(ids, string(q.GetRequestId()))
					return nil, told(len(ids))
				},
			}
			client := f.serve(t, 0)
			_, err := client.Get(t.Context(), "s", []byte("k"))
			_, failed := client.Put(t.Context(), "s", []byte("k"), []byte("v"))
			often := 1
			switch {
			case row.Slower:
				often = 5
				wants(t, err, kinds[row.Error], f.endpoint)
				wants(t, failed, kinds[row.Error], f.endpoint)
			case row.Again:
				often = 3
				wants(t, err, devicedb.ErrNotFound, f.endpoint)
				wants(t, failed, devicedb.ErrNotFound, f.endpoint)
				if strings.Contains(failed.Error(), "an earlier attempt may have taken effect") != row.Unsure {
					t.Errorf("a write ends as %v", failed)
				}
				// By its deadline it ends as unavailable, whatever its last attempt came to.
				never := &fake{get: func() (*devicedbv1.GetResponse, error) { return nil, refusal(t, code, row.Reason, "devicedb") }}
				_, err = never.serve(t, 400*time.Millisecond).Get(t.Context(), "s", []byte("k"))
				wants(t, err, kinds[row.Error], "")
			default:
				wants(t, err, kinds[row.Error], f.endpoint)
				wants(t, failed, kinds[row.Error], f.endpoint)
			}
			if asked != often || len(ids) != often || slices.ContainsFunc(ids, func(id string) bool { return id == "" || id != ids[0] }) {
				t.Errorf("it was asked %d times to read, and to write under the names %q", asked, ids)
			}
		})
	}
}

func TestAReasonOfAnotherDomainIsNotOurs(t *testing.T) {
	f := &fake{get: func() (*devicedbv1.GetResponse, error) {
		return nil, refusal(t, codes.PermissionDenied, "INVALID", "proxy.example")
	}}
	_, err := f.serve(t, 0).Get(t.Context(), "s", []byte("k"))
	wants(t, err, devicedb.ErrNotPermitted, "told")
}

func TestAWriteThatWasUnsureOnceIsRepeatedUnderOneNameAndSaysSoIfItEndsBadly(t *testing.T) {
	lost, gone := refusal(t, codes.Unknown, "UNKNOWN_OUTCOME", "devicedb"), refusal(t, codes.NotFound, "NOT_FOUND", "devicedb")
	turn := 0
	f := &fake{
		put: func(*devicedbv1.PutRequest) (*devicedbv1.PutResponse, error) {
			if turn++; turn == 1 {
				return nil, lost
			}
			return nil, gone
		},
		remove: func() error {
			if turn++; turn == 1 {
				return lost
			}
			return gone
		},
	}
	client := f.serve(t, 0)
	_, err := client.Put(t.Context(), "s", []byte("k"), []byte("v"))
	wants(t, err, devicedb.ErrNotFound, "an earlier attempt may have taken effect")
	turn = 0
	if err := client.Sites.Remove(t.Context(), "s"); err != nil {
		t.Fatalf("what an earlier attempt has removed is removed: %v", err)
	}
	f.put = func(*devicedbv1.PutRequest) (*devicedbv1.PutResponse, error) { return nil, lost }
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	_, err = client.Put(ctx, "s", []byte("k"), []byte("v"), devicedb.WithRequestID([]byte("0123456789abcdef")))
	if e := wants(t, err, devicedb.ErrUnknownOutcome, "repeat it"); string(e.RequestID) != "0123456789abcdef" {
		t.Errorf("it is to be repeated as %x", e.RequestID)
	}
}

func TestAClosedClientSaysSoAlsoToCallsThatWereUnderWay(t *testing.T) {
	under, over := make(chan bool), make(chan bool)
	f := &fake{get: func() (*devicedbv1.GetResponse, error) { close(under); <-over; return nil, nil }}
	client := f.serve(t, 0)
	ended := make(chan error, 1)
	go func() {
		_, err := client.Get(context.Background(), "s", []byte("k"))
		ended <- err
	}()
	<-under
	if err := client.Close(); err != nil {
		t.Fatal(err)
	}
	wants(t, <-ended, devicedb.ErrClosed, "closed")
	close(over)
	_, err := client.Get(t.Context(), "s", []byte("k"))
	wants(t, err, devicedb.ErrClosed, "closed")
	for _, err := range client.Scan(t.Context(), "s", nil) {
		wants(t, err, devicedb.ErrClosed, "closed")
	}
}

func TestAnEndpointThatIsNotThereIsNamedWellInsideTheTimeout(t *testing.T) {
	began := time.Now()
	_, err := open(t, "127.0.0.1:1", 0).Put(t.Context(), "s", []byte("k"), []byte("v"))
	wants(t, err, devicedb.ErrUnavailable, "127.0.0.1:1 (dial tcp 127.0.0.1:1: connect: connection refused)")
	if took := time.Since(began); took > 3*time.Second {
		t.Errorf("it took %v", took)
	}
}

func TestAnEndpointThatSwallowsEverythingCostsNoMoreThanTheDeadlineAndHadNoEffect(t *testing.T) {
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = silent.Close() }()
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	began := time.Now()
	_, err = open(t, silent.Addr().String(), 0).Put(ctx, "s", []byte("k"), []byte("v"))
	wants(t, err, devicedb.ErrUnavailable, silent.Addr().String())
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("the caller's deadline was behind it: %v", err)
	}
	if took := time.Since(began); took < 900*time.Millisecond || took > 2*time.Second {
		t.Errorf("it took %v", took)
	}
}

func TestOneDeadEndpointOfSeveralIsPassedOver(t *testing.T) {
	f := &fake{get: func() (*devicedbv1.GetResponse, error) { return &devicedbv1.GetResponse{}, nil }}
	f.serve(t, 0)
	for _, endpoints := range []string{"127.0.0.1:1,127.0.0.1:2," + f.endpoint, "127.0.0.1:1," + f.endpoint + ",127.0.0.1:2"} {
		if _, err := open(t, endpoints, 5*time.Second).Get(t.Context(), "s", []byte("k")); err != nil {
			t.Error(err)
		}
	}
}

func TestAServerThatIsNewerOrOlderByAFieldIsUnderstood(t *testing.T) {
	newer := &devicedbv1.GetResponse{Siblings: []*devicedbv1.Sibling{{Value: []byte("v")}}}
	newer.ProtoReflect().SetUnknown([]byte("\xfa\x3f\x05later")) // Field 1023, which this client does not know.
	f := &fake{
		get:    func() (*devicedbv1.GetResponse, error) { return newer, nil },
		create: func() *devicedbv1.Snapshot { return &devicedbv1.Snapshot{Status: 99} },
	}
	client := f.serve(t, 0)
	got, err := client.Get(t.Context(), "s", []byte("k"))
	if err != nil || string(got.GetSiblings()[0].GetValue()) != "v" || !bytes.Contains(got.ProtoReflect().GetUnknown(), []byte("later")) {
		t.Errorf("%v %v", got, err)
	}
	snapshot, err := client.Snapshots.Status(t.Context(), uuid)
	if err != nil || snapshot.GetStatus() != 99 {
		t.Errorf("%v %v", snapshot, err)
	}
	f.get = func() (*devicedbv1.GetResponse, error) { return &devicedbv1.GetResponse{}, nil }
	if older, err := client.Get(t.Context(), "s", []byte("k")); err != nil || older.GetLeader().GetAddress() != "" {
		t.Errorf("%v %v", older, err)
	}
	_, err = client.Overview(t.Context())
	wants(t, err, devicedb.ErrUnsupported, "GetOverview")
}

func TestAListThatDoesNotEndEnds(t *testing.T) {
	f := &fake{sites: func() *devicedbv1.ListSitesResponse {
		return &devicedbv1.ListSitesResponse{NextPageToken: "the same for ever"}
	}}
	_, err := f.serve(t, 0).Sites.List(t.Context())
	wants(t, err, devicedb.ErrFailed, "does not end")
}

func TestAScanWhoseStreamsBreakHasEveryKeyOnceAndASilentOneIsGivenUp(t *testing.T) {
	f := &fake{scan: func(q *devicedbv1.ScanRequest, to grpc.ServerStreamingServer[devicedbv1.ScanResponse]) error {
		first := 0
		if after := string(q.GetAfter()); after != "" {
			_, _ = fmt.Sscan(after, &first)
			first++
		}
		for n := first; n < min(first+7, 50); n++ {
			if q.GetLimit() > 0 && n-first >= int(q.GetLimit()) {
				return nil
			}
			if err := to.Send(&devicedbv1.ScanResponse{Entries: []*devicedbv1.ScanEntry{{Key: fmt.Appendf(nil, "%d", n)}}}); err != nil {
				return err
			}
		}
		if first+7 < 50 {
			return refusal(t, codes.Unavailable, "", "")
		}
		return nil
	}}
	client := f.serve(t, 2*time.Second)
	for limit, want := range map[uint64]int{0: 50, 20: 20} {
		n := 0
		for entry, err := range client.Scan(t.Context(), "s", nil, devicedb.Limit(limit)) {
			if err != nil || string(entry.GetKey()) != fmt.Sprint(n) {
				t.Fatalf("%v %v", entry, err)
			}
			n++
		}
		if n != want {
			t.Errorf("%d keys came", n)
		}
	}
	f.scan = func(_ *devicedbv1.ScanRequest, to grpc.ServerStreamingServer[devicedbv1.ScanResponse]) error {
		<-to.Context().Done()
		return to.Context().Err()
	}
	began := time.Now()
	for _, err := range open(t, f.endpoint, 500*time.Millisecond).Scan(t.Context(), "s", nil) {
		wants(t, err, devicedb.ErrUnavailable, "no answer within")
	}
	if took := time.Since(began); took > 2*time.Second {
		t.Errorf("it took %v", took)
	}
}

func TestSnapshotsThatFailOrAreNotOverInTimeSayWhy(t *testing.T) {
	snapshot := &devicedbv1.Snapshot{Uuid: uuid, Status: devicedbv1.SnapshotStatus_SNAPSHOT_STATUS_FAILED, Reason: "node 1: disk full"}
	f := &fake{create: func() *devicedbv1.Snapshot { return snapshot }}
	client := f.serve(t, 0)
	_, err := client.Snapshots.Create(t.Context(), devicedb.Wait())
	wants(t, err, devicedb.ErrFailed, "disk full")
	snapshot = &devicedbv1.Snapshot{Uuid: uuid, Status: devicedbv1.SnapshotStatus_SNAPSHOT_STATUS_PROCESSING}
	_, err = client.Snapshots.Create(t.Context(), devicedb.Wait(), devicedb.WaitTimeout(300*time.Millisecond), devicedb.WithUUID(uuid))
	wants(t, err, devicedb.ErrUnavailable, uuid+" is still processing")
}

func TestAnUploadIsBegunAgainWhereNobodyHasItStoredAnyMore(t *testing.T) {
	looks := []devicedbv1.UploadStatus{devicedbv1.UploadStatus_UPLOAD_STATUS_RUNNING, devicedbv1.UploadStatus_UPLOAD_STATUS_ABSENT, devicedbv1.UploadStatus_UPLOAD_STATUS_STORED}
	begun := 0
	f := &fake{create: func() *devicedbv1.Snapshot {
		upload := &devicedbv1.Upload{Status: looks[0], NewBytes: 7}
		looks = looks[1:]
		return &devicedbv1.Snapshot{Uuid: uuid, Upload: upload}
	}, upload: func() *devicedbv1.Upload {
		begun++
		return &devicedbv1.Upload{Status: devicedbv1.UploadStatus_UPLOAD_STATUS_RUNNING}
	}}
	client := f.serve(t, 0)
	upload, err := client.Snapshots.Upload(t.Context(), uuid, devicedb.Wait())
	if err != nil || upload.NewBytes != 7 || begun != 2 {
		t.Fatal(upload, err, begun)
	}
	f.upload = func() *devicedbv1.Upload {
		return &devicedbv1.Upload{Status: devicedbv1.UploadStatus_UPLOAD_STATUS_FAILED, Reason: "node 2: its disk is gone"}
	}
	_, err = client.Snapshots.Upload(t.Context(), uuid)
	wants(t, err, devicedb.ErrFailed, "its disk is gone")
}

// tarOf is the smallest part: a manifest without groups and chunks.
func tarOf() []byte { return tarWith("0") }

func tarWith(product string) []byte {
	body := fmt.Sprintf("{\"format\":1,\"product\":%q,\n\"snapshot\":%q,\"lineage\":\"l\",\"node\":\"7\",\"chunks\":[],\n", product, uuid)
	sum := blake3.Sum256([]byte(body))
	text := fmt.Sprintf("%s\"digest\":\"%x\"}\n", body, sum)
	header := make([]byte, 512)
	copy(header, "manifest.json")
	copy(header[124:], fmt.Sprintf("%011o", len(text)))
	header[156] = '0'
	total := 8 * int(' ')
	for _, b := range header {
		total += int(b)
	}
	copy(header[148:], fmt.Sprintf("%07o", total))
	tar := append(header, text...)
	return append(tar, make([]byte, (512-len(text)%512)%512+1024)...)
}

// lie is what a stream says that is not so.
type lie struct {
	node, total, offset uint64
	digest              string
	tar                 []byte
}

func send(to grpc.ServerStreamingServer[devicedbv1.DownloadSnapshotResponse], tar []byte, offset uint64, l lie) error {
	total, node := max(l.total, uint64(len(tar))), max(l.node, 7)
	if l.total > 0 {
		total = l.total
	}
	digest := blake3.Sum256(tar)
	said := hex.EncodeToString(digest[:])
	if l.digest != "" {
		said = l.digest
	}
	all := []*devicedbv1.DownloadSnapshotResponse{{Piece: &devicedbv1.DownloadSnapshotResponse_Header{
		Header: &devicedbv1.DownloadHeader{NodeId: node, TotalBytes: total, Offset: offset + l.offset},
	}}}
	for at := offset; at < uint64(len(tar)); at += 100 {
		data := tar[at:min(at+100, uint64(len(tar)))]
		all = append(all, &devicedbv1.DownloadSnapshotResponse{Piece: &devicedbv1.DownloadSnapshotResponse_Data{Data: data}})
	}
	all = append(all, &devicedbv1.DownloadSnapshotResponse{Piece: &devicedbv1.DownloadSnapshotResponse_Trailer{
		Trailer: &devicedbv1.DownloadTrailer{TotalBytes: total, Digest: said},
	}})
	for _, one := range all {
		if err := to.Send(one); err != nil {
			return err
		}
	}
	return nil
}

func TestADownloadWhoseStreamsBreakIsWholeAndAsksOnlyForTheRest(t *testing.T) {
	tar := tarOf()
	var offsets []uint64
	f := &fake{download: func(q *devicedbv1.DownloadSnapshotRequest, to grpc.ServerStreamingServer[devicedbv1.DownloadSnapshotResponse]) error {
		offsets = append(offsets, q.GetOffset())
		if q.GetOffset() >= 1200 {
			return send(to, tar, q.GetOffset(), lie{})
		}
		header := &devicedbv1.DownloadHeader{NodeId: 7, TotalBytes: uint64(len(tar)), Offset: q.GetOffset()}
		piece := tar[q.GetOffset() : q.GetOffset()+400]
		return errors.Join(
			to.Send(&devicedbv1.DownloadSnapshotResponse{Piece: &devicedbv1.DownloadSnapshotResponse_Header{Header: header}}),
			to.Send(&devicedbv1.DownloadSnapshotResponse{Piece: &devicedbv1.DownloadSnapshotResponse_Data{Data: piece}}),
			refusal(t, codes.Internal, "", ""),
		)
	}}
	path := filepath.Join(t.TempDir(), "part.tar")
	part, err := f.serve(t, 0).Snapshots.Download(t.Context(), uuid, 0, path)
	if err != nil || part.NodeID != 7 || part.Bytes != uint64(len(tar)) {
		t.Fatalf("%v %v", part, err)
	}
	if data, err := os.ReadFile(path); err != nil || !bytes.Equal(data, tar) {
		t.Error("the file is not the part", err)
	}
	if fmt.Sprint(offsets) != "[0 400 800 1200]" {
		t.Errorf("it asked at %v", offsets)
	}
	if _, err := os.Stat(devicedb.PartialPath(path)); !errors.Is(err, os.ErrNotExist) {
		t.Error("a partial file was left")
	}
}

func TestAStreamThatIsNotThePartIsRefusedWithItsReason(t *testing.T) {
	tar := tarOf()
	size := uint64(len(tar))
	changed := func(at int) []byte { return append(append(append([]byte{}, tar[:at]...), 'x'), tar[at+1:]...) }
	for _, c := range []struct {
		lie  lie
		kind devicedb.Kind
		says string
		kept bool
	}{
		{lie{digest: strings.Repeat("00", 32)}, devicedb.ErrCorrupt, "their blake3 is", false},
		{lie{node: 8}, devicedb.ErrFailed, "that of node 8 came", false},
		{lie{total: size - 200}, devicedb.ErrCorrupt, "more came than", false},
		{lie{total: size + 1}, devicedb.ErrFailed, "complete after", true},
		{lie{offset: 100}, devicedb.ErrFailed, "begins at byte 100 and not at 0", false},
		{lie{tar: changed(512)}, devicedb.ErrCorrupt, "manifest", false},
		{lie{tar: changed(len(tar) - 1)}, devicedb.ErrCorrupt, "more than its manifest says", false},
		{lie{tar: append(append([]byte{}, tar...), make([]byte, 512)...)}, devicedb.ErrCorrupt, "behind its end", false},
		{lie{tar: make([]byte, 2048)}, devicedb.ErrCorrupt, "header of manifest.json is damaged", false},
	} {
		t.Run(c.says, func(t *testing.T) {
			sent := tar
			if c.lie.tar != nil {
				sent = c.lie.tar
			}
			f := &fake{download: func(q *devicedbv1.DownloadSnapshotRequest, to grpc.ServerStreamingServer[devicedbv1.DownloadSnapshotResponse]) error {
				return send(to, sent, q.GetOffset(), c.lie)
			}}
			path := filepath.Join(t.TempDir(), "part.tar")
			_, err := f.serve(t, time.Second).Snapshots.Download(t.Context(), uuid, 7, path)
			e := wants(t, err, c.kind, c.says)
			if _, err := os.Stat(devicedb.PartialPath(path)); (err == nil) != c.kept || (e.Partial != "") != c.kept {
				t.Errorf("kept: %v, %q", err, e.Partial)
			}
			if _, err := os.Stat(path); err == nil {
				t.Error("half a file has its name")
			}
		})
	}
}

func whole(tar []byte) *fake {
	return &fake{download: func(q *devicedbv1.DownloadSnapshotRequest, to grpc.ServerStreamingServer[devicedbv1.DownloadSnapshotResponse]) error {
		return send(to, tar, q.GetOffset(), lie{})
	}}
}

func TestAPathThatCannotBeWrittenIsNamedAndTwoDownloadsDoNotWriteOneFile(t *testing.T) {
	dir, tar := t.TempDir(), tarOf()
	client := whole(tar).serve(t, 0)
	if err := os.WriteFile(filepath.Join(dir, "file"), []byte("in the way"), 0o666); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{filepath.Join(dir, "absent/part.tar"), filepath.Join(dir, "file/part.tar")} {
		_, err := client.Snapshots.Download(t.Context(), uuid, 7, path)
		wants(t, err, devicedb.ErrLocalFile, path)
		if !errors.Is(err, os.ErrNotExist) && !errors.Is(err, syscall.ENOTDIR) {
			t.Errorf("the cause is lost: %v", err)
		}
	}
	path := filepath.Join(dir, "part.tar")
	if err := os.WriteFile(devicedb.PartialPath(path), bytes.Repeat([]byte("old and long"), 1000), 0o666); err != nil {
		t.Fatal(err)
	}
	_, err := client.Snapshots.Download(t.Context(), uuid, 7, path, devicedb.Afresh(), devicedb.OnBytes(func(uint64, uint64) {
		_, err := client.Snapshots.Download(t.Context(), uuid, 7, path)
		wants(t, err, devicedb.ErrLocalFile, "another download is writing")
	}))
	if data, _ := os.ReadFile(path); err != nil || !bytes.Equal(data, tar) {
		t.Error("the file is not the part", err)
	}
}

func TestALinkStaysAndWhatIsNoFileIsWrittenThrough(t *testing.T) {
	dir, tar := t.TempDir(), tarOf()
	client := whole(tar).serve(t, 0)
	download := func(path string, options ...devicedb.Option) {
		t.Helper()
		if part, err := client.Snapshots.Download(t.Context(), uuid, 7, path, options...); err != nil || part.Path != path || part.Bytes != uint64(len(tar)) {
			t.Fatalf("%v %v", part, err)
		}
	}
	mode := func(path string) os.FileMode {
		t.Helper()
		info, err := os.Lstat(path)
		if err != nil {
			t.Fatal(err)
		}
		return info.Mode().Type()
	}
	target, link := filepath.Join(dir, "there", "part.tar"), filepath.Join(dir, "link.tar")
	if err := errors.Join(os.Mkdir(filepath.Dir(target), 0o777), os.Symlink("there/part.tar", link)); err != nil {
		t.Fatal(err)
	}
	if devicedb.PartialPath(link) != target+".partial" {
		t.Errorf("the partial file is %s", devicedb.PartialPath(link))
	}
	download(link)
	download(link)
	download(link, devicedb.Afresh())
	if data, err := os.ReadFile(target); err != nil || !bytes.Equal(data, tar) || mode(link) != os.ModeSymlink || mode(target) != 0 {
		t.Errorf("%v, %v, %v", err, mode(link), mode(target))
	}
	if info, err := os.Stat(target); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("others can read it: %v, %v", info.Mode(), err)
	}

	fifo := filepath.Join(dir, "fifo")
	if err := syscall.Mkfifo(fifo, 0o666); err != nil {
		t.Fatal(err)
	}
	read := make(chan []byte, 1)
	go func() { data, _ := os.ReadFile(fifo); read <- data }()
	download(fifo)
	if !bytes.Equal(<-read, tar) || mode(fifo) != os.ModeNamedPipe {
		t.Errorf("the FIFO is %v now", mode(fifo))
	}

	// A null device of our own, where that is allowed.
	null := filepath.Join(dir, "null")
	if err := syscall.Mknod(null, syscall.S_IFCHR|0o666, 1<<8|3); err == nil {
		if file, err := os.OpenFile(null, os.O_WRONLY, 0); err == nil {
			_ = file.Close()
			download(null)
			if mode(null) != os.ModeDevice|os.ModeCharDevice {
				t.Errorf("the device is %v now", mode(null))
			}
		}
	}

	path, victim := filepath.Join(dir, "part.tar"), filepath.Join(dir, "victim")
	if err := errors.Join(os.WriteFile(victim, []byte("victim"), 0o666), os.Symlink(victim, devicedb.PartialPath(path))); err != nil {
		t.Fatal(err)
	}
	for path, says := range map[string]string{path: "no file that a download left", dir: "is a directory", dir + "/none/": "there is no directory"} {
		_, err := client.Snapshots.Download(t.Context(), uuid, 7, path)
		wants(t, err, devicedb.ErrLocalFile, says)
	}
	if data, _ := os.ReadFile(victim); string(data) != "victim" {
		t.Error("what the link at the partial file led to was written")
	}
}

// TestADiskThatIsFullKeepsWhatCame runs itself in a mount namespace with a disk that is too small.
func TestADiskThatIsFullKeepsWhatCame(t *testing.T) {
	if small := os.Getenv("DEVICEDB_SMALL_DISK"); small != "" {
		path := filepath.Join(small, "part.tar")
		tar := tarWith(strings.Repeat("x", 20_000))
		_, err := whole(tar).serve(t, 0).Snapshots.Download(t.Context(), uuid, 7, path)
		e := wants(t, err, devicedb.ErrLocalFile, "no space left on device")
		if !errors.Is(err, syscall.ENOSPC) || e.Partial != devicedb.PartialPath(path) || !strings.Contains(e.Message, e.Partial+" holds 8192 of") {
			t.Errorf("%v %q", err, e.Partial)
		}
		if out, err := exec.Command("mount", "-o", "remount,size=64k", small).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		if _, err := whole(tar).serve(t, 0).Snapshots.Download(t.Context(), uuid, 7, path); err != nil {
			t.Errorf("with room again, the same call goes on: %v", err)
		}
		return
	}
	small := t.TempDir()
	inside := `mount -t tmpfs -o size=8k small "$DEVICEDB_SMALL_DISK" && exec "$@"`
	command := exec.Command("unshare", "--user", "--map-root-user", "--mount", "sh", "-c", inside, "sh", os.Args[0], "-test.run=^"+t.Name()+"$", "-test.count=1")
	command.Env = append(os.Environ(), "DEVICEDB_SMALL_DISK="+small)
	if out, err := command.CombinedOutput(); err != nil || !bytes.Contains(out, []byte("PASS")) {
		t.Fatalf("%v: %s", err, out)
	}
}

// TestAnotherModuleCanUseTheClient builds a program of its own module, with a replace directive, as go get would.
func TestAnotherModuleCanUseTheClient(t *testing.T) {
	dir := t.TempDir()
	here, err := filepath.Abs("..")
	if err != nil {
		t.Fatal(err)
	}
	readme, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, twenty, _ := strings.Cut(string(readme), "```go\n")
	twenty, _, _ = strings.Cut(twenty, "```")
	backup := "package main\n\nimport (\n\t\"context\"\n\t\"fmt\"\n\t\"time\"\n\n\t\"devicedb.example/go/devicedb\"\n)\n\n" +
		"var _ = backup\n\nfunc backup(ctx context.Context) error {\n" + twenty + "}\n"
	program := `package main

import (
	"context"
	"errors"
	"fmt"

	"devicedb.example/go/devicedb"
	"devicedb.example/go/devicedbv1"
)

func main() {
	client, err := devicedb.Open("127.0.0.1:1", devicedb.Options{})
	if err != nil {
		panic(err)
	}
	_, err = client.Get(context.Background(), "s", []byte("k"))
	fmt.Println(errors.Is(err, devicedb.ErrUnavailable), devicedbv1.Bucket_BUCKET_LWW)
}
`
	sums, err := os.ReadFile("../go.sum")
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"main.go": program, "backup.go": backup, "go.sum": string(sums)} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	run := func(args ...string) string {
		command := exec.Command("go", args...)
		command.Dir = dir
		out, err := command.CombinedOutput()
		if err != nil {
			t.Fatalf("go %v: %v: %s", args, err, out)
		}
		return string(out)
	}
	run("mod", "init", "other.example/program")
	run("mod", "edit", "-require=devicedb.example/go@v0.1.0", "-replace=devicedb.example/go="+here)
	run("mod", "tidy")
	if out := run("run", "."); out != "true BUCKET_LWW\n" {
		t.Errorf("it printed %q", out)
	}
}
