// Package devicedb is the client of DeviceDB: data, sites, relays, and snapshots of the whole cluster that a backup script can trust.
//
//	client, err := devicedb.Open("node1.example:8080,node2.example:8080", devicedb.Options{})
//	...
//	defer client.Close()
//	snapshot, err := client.Snapshots.Create(ctx, devicedb.Wait())
//	for _, part := range snapshot.Parts {
//		if part.DownloadBytes == 0 {
//			continue // A node that was away has none.
//		}
//		_, err = client.Snapshots.Download(ctx, snapshot.Uuid, part.NodeId, fmt.Sprintf("%s-%d.tar", snapshot.Uuid, part.NodeId))
//	}
//
// Answers are the contract's own messages, of package devicedbv1. Errors are *Error, and one of the Err kinds for errors.Is, by what the caller can do
// next. Sizes are bytes. The Python client has the same calls.
//
// Every call of the contract can be repeated: reads because they are reads, writes because they carry a request id or name the state they want. So one
// loop serves all: an attempt at an endpoint, a look at its fault, the next attempt, within the context's deadline or, without one, Options.Timeout.
// Scans and downloads go on as long as something keeps arriving within Options.Timeout, and no longer than the context.
package devicedb

import (
	"context"
	"errors"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"

	"devicedb.example/go/devicedbv1"
)

const (
	// Version of the client.
	Version = "0.1.0"
	// connectWithin is how long one attempt to connect may take, so that an address that swallows packets does not eat the whole deadline.
	connectWithin  = 3 * time.Second
	timeoutDefault = 10 * time.Second
	lookMin        = 100 * time.Millisecond
	lookMax        = time.Second
	// leadersMax is of how many sites the leader is remembered.
	leadersMax = 4096
	// answerBytesMax holds one key with every sibling at its largest, and what frames it.
	answerBytesMax = 16 << 20
	// windowBytes is what a server may send ahead: a download over a long line is not held up by every piece's round trip.
	windowBytes = 4 << 20
)

// Options of a client; the zero value is good.
type Options struct {
	// Timeout of a call whose context has no deadline, retries included; 10 s if it is 0. For scans, downloads and waits: within which something has to
	// arrive.
	Timeout time.Duration
	// ClusterID is the cluster that is meant, as Overview tells it: nodes of any other refuse every call with ErrOtherCluster. Empty takes it from the
	// environment, DDBCTL_CLUSTER_ID, if it is there.
	ClusterID string
	// TLS are files for connections over TLS; without them everything is spoken in the open.
	TLS *TLSFiles
	// Token says who the caller is, as in ddb_... It is sent over TLS only, or to this machine.
	Token Secret
	// TokenFile holds a token and nothing else; it is read again when it changes.
	TokenFile string
	// Dial are further options of gRPC's connections.
	Dial []grpc.DialOption
}

// Client of a DeviceDB cluster. It may be shared by goroutines.
type Client struct {
	// Sites of the cluster.
	Sites *Sites
	// Relays of the cluster.
	Relays *Relays
	// Snapshots of the cluster.
	Snapshots *Snapshots

	endpoints []string
	timeout   time.Duration
	nodes     []*node

	mu        sync.Mutex
	preferred int
	leaders   map[string]int
	closed    bool
	// The cluster that calls are for, if it is known, and whether there is nothing left to ask.
	cluster string
	settled bool
	bearer  *bearer
}

// node is an endpoint: its connection, and whether it is known to answer.
type node struct {
	conn      *grpc.ClientConn
	mu        sync.Mutex
	proven    bool
	health    healthv1.HealthClient
	kv        devicedbv1.KvServiceClient
	cluster   devicedbv1.ClusterServiceClient
	snapshots devicedbv1.SnapshotServiceClient
}

// Open makes a client; it connects when it is used. Endpoints are host:port of one or more nodes, with commas; of a proxy, one is enough. Every endpoint is
// tried once before any is tried again. Leaders are asked directly where they are among the endpoints. Several are asked before the first call whether they
// are of one cluster; every call is refused with ErrOtherCluster where they are not.
func Open(endpoints string, options Options) (*Client, error) {
	c := &Client{endpoints: strings.Split(endpoints, ","), timeout: options.Timeout, leaders: map[string]int{}}
	if c.timeout < 0 {
		return nil, newError(ErrInvalidArgument, "the timeout is %v: it must be above 0", c.timeout)
	}
	if c.timeout == 0 {
		c.timeout = timeoutDefault
	}
	cluster, err := pinned(options.ClusterID)
	if err != nil {
		return nil, err
	}
	c.cluster, c.settled = cluster, cluster != "" || len(c.endpoints) == 1
	for _, endpoint := range c.endpoints {
		host, port, err := net.SplitHostPort(endpoint)
		number, bad := strconv.Atoi(port)
		if err != nil || bad != nil || host == "" || strings.Contains(host, "/") || number < 1 || number > 65535 {
			return nil, newError(ErrInvalidArgument, "%q is no endpoint: write host:port, as in node1.example:8080", endpoint)
		}
	}
	secured, bearer, err := checkCaller(options, c.endpoints)
	if err != nil {
		return nil, err
	}
	c.bearer = bearer
	dial := append([]grpc.DialOption{
		grpc.WithTransportCredentials(secured.transport()),
		grpc.WithUserAgent("devicedb-go/" + Version),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(answerBytesMax)),
		grpc.WithDisableRetry(),
		grpc.WithDisableServiceConfig(),
		grpc.WithIdleTimeout(0),
		grpc.WithInitialWindowSize(windowBytes),
		grpc.WithInitialConnWindowSize(windowBytes),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: delayMin, Multiplier: 2, Jitter: 0.2, MaxDelay: delayMax},
			MinConnectTimeout: connectWithin,
		}),
		// A connection that is silent is asked whether it lives, also while no call is under way, so that what stands between does not forget it.
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 20 * time.Second, Timeout: 10 * time.Second, PermitWithoutStream: true}),
	}, options.Dial...)
	for _, endpoint := range c.endpoints {
		conn, err := grpc.NewClient("passthrough:///"+endpoint, dial...)
		if err != nil {
			_ = c.Close()
			return nil, newError(ErrInvalidArgument, "%q is no endpoint: %v", endpoint, err).because(err)
		}
		c.nodes = append(c.nodes, &node{
			conn: conn, health: healthv1.NewHealthClient(conn), kv: devicedbv1.NewKvServiceClient(conn),
			cluster: devicedbv1.NewClusterServiceClient(conn), snapshots: devicedbv1.NewSnapshotServiceClient(conn),
		})
	}
	c.Sites, c.Relays, c.Snapshots = &Sites{c}, &Relays{c}, &Snapshots{c}
	return c, nil
}

// Close closes all connections. Calls under way and later ones return ErrClosed.
func (c *Client) Close() error {
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
	var all []error
	for _, n := range c.nodes {
		if err := n.conn.Close(); err != nil && status.Code(err) != codes.Canceled {
			all = append(all, err)
		}
	}
	return errors.Join(all...)
}

// call is one question, one answer.
func call[Q, A any](ctx context.Context, c *Client, f *faults, site string, patient bool, ask func(context.Context, *node, Q) (A, error), request Q) (A, error) {
	var none A
	tries := begin(len(c.endpoints), c.start(site), time.Now(), c.patience(ctx))
	tries.patient = patient
	if err := c.identify(ctx, f.what, c.patience(ctx), patient); err != nil {
		return none, err
	}
	for {
		next, ok := tries.next(time.Now())
		if !ok {
			return none, c.ended(ctx, f)
		}
		n, within, failed := c.connect(ctx, tries, next)
		if failed == nil {
			asked, cancel := context.WithTimeout(c.meaning(ctx), within)
			answer, err := ask(asked, n, request)
			cancel()
			if err == nil {
				c.answered(next.endpoint, site, answer)
				return answer, nil
			}
			failed = faultOf(err)
		}
		if stop := c.note(ctx, tries, f, next, failed, site); stop != nil {
			return none, stop
		}
	}
}

// remove is as call, for what makes something vanish: when an earlier attempt may have done it and the last finds nothing, it is done.
func remove[Q, A any](ctx context.Context, c *Client, f *faults, ask func(context.Context, *node, Q) (A, error), request Q) error {
	_, err := call(ctx, c, f, "", false, ask, request)
	if err != nil && f.doneBefore() {
		return nil
	}
	return err
}

// pages collects every page of a list. ask takes a token, and returns what the page holds and the next token.
func pages[A any](ctx context.Context, c *Client, f *faults, ask func(context.Context, *node, string) ([]A, string, error)) ([]A, error) {
	type page struct {
		items []A
		next  string
	}
	var all []A
	token := ""
	for {
		one, err := call(ctx, c, f, "", false, func(ctx context.Context, n *node, token string) (page, error) {
			items, next, err := ask(ctx, n, token)
			return page{items, next}, err
		}, token)
		if err != nil {
			return nil, err
		}
		all = append(all, one.items...)
		if one.next == "" {
			return all, nil
		}
		if one.next == token {
			return nil, newError(ErrFailed, "cannot %s: the list does not end: a page names itself as the next one", f.what)
		}
		token = one.next
	}
}

// stream is one question, many messages. One that breaks is opened again with what request then says, for as long as messages that count arrive. It ends
// with nil when take says that all is there or, if ends, when the server has no more.
func stream[Q, M any](ctx context.Context, c *Client, f *faults, ends bool, ask func(context.Context, *node, Q) (grpc.ServerStreamingClient[M], error),
	request func() Q, take func(*M) (done, counts bool, err error),
) error {
	tries := begin(len(c.endpoints), c.start(""), time.Now(), c.timeout)
	if err := c.identify(ctx, f.what, c.timeout, false); err != nil {
		return err
	}
	for {
		next, ok := tries.next(time.Now())
		if !ok {
			return c.ended(ctx, f)
		}
		failed, err := follow(ctx, c, tries, next, ends, ask, request, take)
		if err != nil || failed == nil {
			return err
		}
		if stop := c.note(ctx, tries, f, next, failed, ""); stop != nil {
			return stop
		}
	}
}

func follow[Q, M any](ctx context.Context, c *Client, tries *attempts, next attempt, ends bool, ask func(context.Context, *node, Q) (grpc.ServerStreamingClient[M], error),
	request func() Q, take func(*M) (done, counts bool, err error),
) (*fault, error) {
	n, left, failed := c.connect(ctx, tries, next)
	if failed != nil {
		return failed, nil
	}
	asked, cancel := context.WithCancel(c.meaning(ctx))
	defer cancel()
	within := func(left time.Duration, do func() error) (bool, error) {
		timer := time.AfterFunc(left, cancel)
		err := do()
		return !timer.Stop(), err
	}
	var messages grpc.ServerStreamingClient[M]
	if expired, err := within(left, func() (err error) { messages, err = ask(asked, n, request()); return err }); err != nil {
		return streamFault(expired, left, err), nil
	}
	for {
		var message *M
		expired, err := within(left, func() (err error) { message, err = messages.Recv(); return err })
		if errors.Is(err, io.EOF) {
			if ends {
				return nil, nil
			}
			return cutShort(), nil
		}
		if err != nil {
			return streamFault(expired, left, err), nil
		}
		done, counts, err := take(message)
		if done || err != nil {
			return nil, err
		}
		if counts {
			c.prefer(next.endpoint)
			left = tries.progress(time.Now())
		}
	}
}

func streamFault(expired bool, left time.Duration, err error) *fault {
	if expired {
		return late(left.Seconds())
	}
	return faultOf(err)
}

// connect waits for its turn, sees that somebody answers there, and says how much of the attempt's time is left. The question is one that changes nothing,
// so that what cannot connect is known to have had no effect.
func (c *Client) connect(ctx context.Context, tries *attempts, next attempt) (*node, time.Duration, *fault) {
	if !sleep(ctx, next.after) {
		return nil, 0, notConnected(noTime)
	}
	began := time.Now()
	n := c.nodes[next.endpoint]
	if !n.isProven() {
		asked, cancel := context.WithTimeout(ctx, min(next.within, connectWithin))
		_, err := n.health.Check(asked, &healthv1.HealthCheckRequest{})
		cancel()
		// Any other answer is an answer, also that there is no such service.
		if err != nil {
			failed := faultOf(err)
			if failed.rule == notTrusted {
				return nil, 0, failed
			}
			if failed.kind == ErrUnavailable {
				return nil, 0, notConnected(failed.message)
			}
		}
		n.prove(true)
	}
	tries.connected = true
	left := next.within - time.Since(began)
	if left <= 0 {
		return nil, 0, notConnected(noTime)
	}
	return n, left, nil
}

// note keeps a fault, and says whether it ends the call.
func (c *Client) note(ctx context.Context, tries *attempts, f *faults, at attempt, failed *fault, site string) error {
	f.add(at.endpoint, failed)
	if failed.slower {
		tries.slower(failed.rest)
	}
	if failed.kind == ErrUnavailable {
		c.nodes[at.endpoint].prove(false)
		c.mu.Lock()
		delete(c.leaders, site)
		c.mu.Unlock()
	}
	if c.isClosed() || ctx.Err() != nil || !failed.again {
		return c.ended(ctx, f)
	}
	return nil
}

// ended is the error that a call ends with, and what of the caller's own was behind it.
func (c *Client) ended(ctx context.Context, f *faults) error {
	if c.isClosed() {
		return newError(ErrClosed, "cannot %s: the client is closed", f.what)
	}
	e := f.error()
	if err := ctx.Err(); err != nil && (e.Kind == ErrUnavailable || e.Kind == ErrUnknownOutcome) {
		return e.because(err)
	}
	return e
}

func (c *Client) answered(endpoint int, site string, answer any) {
	c.prefer(endpoint)
	hint, ok := answer.(interface{ GetLeader() *devicedbv1.LeaderHint })
	if !ok || site == "" {
		return
	}
	// Behind a proxy no leader can be asked directly.
	for i, endpoint := range c.endpoints {
		if endpoint == hint.GetLeader().GetAddress() {
			c.mu.Lock()
			defer c.mu.Unlock()
			if len(c.leaders) >= leadersMax {
				clear(c.leaders)
			}
			c.leaders[site] = i
			return
		}
	}
}

func (c *Client) start(site string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	if leader, ok := c.leaders[site]; ok {
		return leader
	}
	return c.preferred
}

func (c *Client) prefer(endpoint int) {
	c.mu.Lock()
	c.preferred = endpoint
	c.mu.Unlock()
}

func (c *Client) isClosed() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.closed
}

func (c *Client) patience(ctx context.Context) time.Duration {
	if deadline, ok := ctx.Deadline(); ok {
		return time.Until(deadline)
	}
	return c.timeout
}

func (n *node) isProven() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.proven
}

func (n *node) prove(proven bool) {
	n.mu.Lock()
	n.proven = proven
	n.mu.Unlock()
}

// sleep is false when the context ended first.
func sleep(ctx context.Context, pause time.Duration) bool {
	if pause <= 0 {
		return ctx.Err() == nil
	}
	timer := time.NewTimer(pause)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
