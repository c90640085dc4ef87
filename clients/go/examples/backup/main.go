// Backup backs a cluster up, for cron: it takes a snapshot, fetches the parts of all nodes, verifies them, and keeps the last N.
//
//	backup -endpoints node1:8080,node2:8080,node3:8080 -directory /var/backups/devicedb-parts -keep 7
//	backup -verify /var/backups/devicedb-parts/*/snapshot-*.tar
//
// A backup is a directory TIME-UUID with a tar for each node. It is called TIME-UUID.partial until all in it is verified. A run that was interrupted goes on
// with -uuid; the next that succeeds clears up behind it. Snapshots of backups that are not kept are deleted in the cluster too.
//
// Only backups of the same cluster and history are counted and removed; those of another cluster, or of the time before a restore, stay until a person
// removes them. When the new backup holds less than half of what an earlier one holds, nothing is removed and the run exits with 5, since an empty cluster
// may have taken the place of a full one; if all is well, one run with -accept-smaller says so, and backups are counted from that one on.
//
// Over TLS it takes the same flags as ddbctl, and the same variables: -ca or DDBCTL_CA, -cert or DDBCTL_CERT, -key or DDBCTL_KEY, -server-name or
// DDBCTL_SERVER_NAME, and -token-file or DDBCTL_TOKEN_FILE. Files are read again when they change.
//
// It prints one line a run. It exits with 0 when the backup is whole and verified, 1 when it failed, 2 for wrong arguments or another cluster than meant, 3
// when nodes could not be reached in time (try again), 4 when it is not permitted, 5 when something else is in the way (another snapshot, another run, much
// less than before), 6 when parts are damaged or do not suffice, 130 when it was interrupted.
package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"devicedb.example/go/devicedb"
	"devicedb.example/go/devicedbv1"
)

var exits = []struct {
	kind error
	code int
}{
	{context.Canceled, 130}, {devicedb.ErrInvalidArgument, 2}, {devicedb.ErrUnavailable, 3}, {devicedb.ErrUnknownOutcome, 3}, {devicedb.ErrExhausted, 3},
	{devicedb.ErrNotPermitted, 4}, {devicedb.ErrNotFound, 5}, {devicedb.ErrConflict, 5}, {devicedb.ErrCorrupt, 6},
	{devicedb.ErrOtherCluster, 2}, {errSmaller, 5},
}

// accepted is an empty file in a backup that holds much less than those before it, and is right.
const accepted = "accepted-smaller"

// errSmaller: the backup is whole, and holds much less than one before it.
var errSmaller = errors.New("if that is right, run once with -accept-smaller")

// line is what one run says.
type line struct {
	Time      string   `json:"time"`
	Result    string   `json:"result"`
	UUID      string   `json:"uuid,omitempty"`
	Nodes     int      `json:"nodes,omitempty"`
	CopiesMin uint32   `json:"copies_min,omitempty"`
	Absent    []string `json:"absent,omitempty"`
	Directory string   `json:"directory,omitempty"`
	Bytes     uint64   `json:"bytes,omitempty"`
	Cluster   string   `json:"cluster,omitempty"`
	Rows      *uint64  `json:"rows,omitempty"`
	Others    int      `json:"others,omitempty"`
	Removed   int      `json:"removed,omitempty"`
	Parts     int      `json:"parts,omitempty"`
	Error     string   `json:"error,omitempty"`
	Exit      int      `json:"exit,omitempty"`
	Seconds   float64  `json:"seconds"`
}

var (
	endpoints   = flag.String("endpoints", "", "host:port of nodes, with commas")
	directory   = flag.String("directory", "", "where backups are kept")
	keep        = flag.Int("keep", 7, "how many backups to keep, at least 1")
	clusterID   = flag.String("cluster-id", "", "the cluster that is meant; nodes of another refuse (default: DDBCTL_CLUSTER_ID, if it is set)")
	ca          = flag.String("ca", os.Getenv("DDBCTL_CA"), "the CA that has issued for the nodes, in PEM: speak TLS (default: DDBCTL_CA, if it is set)")
	cert        = flag.String("cert", os.Getenv("DDBCTL_CERT"), "the certificate that says who this is, in PEM (default: DDBCTL_CERT, if it is set)")
	key         = flag.String("key", os.Getenv("DDBCTL_KEY"), "the key of that certificate, in PEM (default: DDBCTL_KEY, if it is set)")
	serverName  = flag.String("server-name", os.Getenv("DDBCTL_SERVER_NAME"), "whom the nodes' certificates are for, if not for the hosts in -endpoints (default: DDBCTL_SERVER_NAME, if it is set)")
	tokenFile   = flag.String("token-file", os.Getenv("DDBCTL_TOKEN_FILE"), "a file that holds a token and nothing else (default: DDBCTL_TOKEN_FILE, if it is set)")
	smaller     = flag.Bool("accept-smaller", false, "this backup holds much less than earlier ones, and that is right")
	goOn        = flag.String("uuid", "", "go on with the snapshot of an interrupted run")
	timeout     = flag.Duration("timeout", 30*time.Second, "without any answer, after which to give up")
	waitTimeout = flag.Duration("wait-timeout", time.Hour, "to wait for the snapshot")
	asJSON      = flag.Bool("json", false, "print the line as JSON")
	verify      = flag.Bool("verify", false, "only verify the parts that are named")
)

func main() {
	flag.Parse()
	if !*verify && (*endpoints == "" || *directory == "" || *keep < 1 || flag.NArg() > 0) {
		fmt.Fprintln(os.Stderr, "backup: name -endpoints and -directory, and keep at least 1; or -verify parts")
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	began := time.Now()
	said := line{Time: began.UTC().Format("2006-01-02T15:04:05Z"), Result: "ok"}
	err := run(ctx, &said)
	if err != nil {
		said.Result, said.Error, said.Exit = "failed", err.Error(), 1
		for _, exit := range exits {
			if errors.Is(err, exit.kind) {
				said.Exit = exit.code
				break
			}
		}
		switch {
		case said.Exit == 130:
			said.Result = "interrupted"
		case errors.Is(err, errSmaller):
			said.Result = "smaller"
		}
	}
	said.Seconds = float64(time.Since(began).Milliseconds()/100) / 10
	fmt.Println(said.text())
	os.Exit(said.Exit)
}

func run(ctx context.Context, said *line) error {
	if *verify {
		parts, err := devicedb.Verify(flag.Args()...)
		said.Parts = len(parts)
		return err
	}
	return backup(ctx, said)
}

// open makes a client of the cluster that is meant.
func open() (*devicedb.Client, error) {
	options := devicedb.Options{Timeout: *timeout, ClusterID: *clusterID, TokenFile: *tokenFile}
	if *ca == "" && (*cert != "" || *key != "" || *serverName != "") {
		return nil, fmt.Errorf("-cert, -key and -server-name are for TLS: name the CA that has issued for the nodes with -ca: %w", devicedb.ErrInvalidArgument)
	}
	if *ca != "" {
		options.TLS = &devicedb.TLSFiles{CA: *ca, Cert: *cert, Key: *key, ServerName: *serverName}
	}
	return devicedb.Open(*endpoints, options)
}

// backup is one run; what it finds out goes into the line.
func backup(ctx context.Context, said *line) error {
	client, err := open()
	if err != nil {
		return err
	}
	defer func() { _ = client.Close() }()
	if err := os.MkdirAll(*directory, 0o777); err != nil {
		return err
	}
	lock, err := os.Create(filepath.Join(*directory, ".lock"))
	if err != nil {
		return err
	}
	defer func() { _ = lock.Close() }()
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return fmt.Errorf("another backup is writing to %s: wait for it: %w", *directory, devicedb.ErrConflict)
	}
	options := []devicedb.Option{devicedb.Wait(), devicedb.WaitTimeout(*waitTimeout), devicedb.OnSnapshot(func(s *devicedbv1.Snapshot) {
		var done, all uint32
		for _, part := range s.GetParts() {
			done, all = done+part.GetPartitionsDone(), all+part.GetPartitions()
		}
		show("%d of %d partitions written", done, all)
	})}
	if *goOn != "" {
		options = append(options, devicedb.WithUUID(*goOn))
	}
	snapshot, err := client.Snapshots.Create(ctx, options...)
	said.UUID = snapshot.GetUuid()
	if err != nil {
		return err
	}
	var parts []*devicedbv1.SnapshotPart
	for _, part := range snapshot.GetParts() {
		if part.GetStatus() == devicedbv1.SnapshotStatus_SNAPSHOT_STATUS_COMPLETED {
			parts = append(parts, part)
		} else {
			said.Absent = append(said.Absent, fmt.Sprintf("%d: %s", part.GetNodeId(), part.GetReason()))
		}
	}
	said.Nodes, said.CopiesMin = len(parts), snapshot.GetCopiesMin()

	final := filepath.Join(*directory, time.UnixMilli(int64(snapshot.GetCreatedMs())).UTC().Format("20060102T150405Z")+"-"+snapshot.GetUuid())
	aside := final + ".partial"
	said.Directory = final
	if _, err := os.Stat(final); err != nil {
		if err := os.MkdirAll(aside, 0o777); err != nil {
			return err
		}
		tars, bytes, err := fetch(ctx, client, snapshot.GetUuid(), parts, aside)
		said.Bytes = bytes
		if err != nil {
			return err
		}
		if _, err := devicedb.Verify(tars...); err != nil {
			return err
		}
		if err := errors.Join(os.Rename(aside, final), syncDirectory(*directory)); err != nil {
			return err
		}
	}
	if *smaller {
		if err := os.WriteFile(filepath.Join(final, accepted), nil, 0o666); err != nil {
			return err
		}
	}
	found, err := look(filepath.Base(final))
	if err != nil {
		return err
	}
	made := found.ours[found.final]
	said.Cluster, said.Rows, said.Others = made.Cluster, &made.Rows, found.others
	if err := found.compare(); err != nil {
		return err
	}
	said.Removed, err = prune(ctx, client, found)
	return err
}

// backups are what the directory holds: the backup that was just made, those of the same cluster and history in their order, and all others.
type backups struct {
	final  string
	names  []string
	ours   map[string]devicedb.Summary
	left   []string
	others int
}

func look(final string) (*backups, error) {
	made, err := summaryOf(final)
	if err != nil {
		return nil, err
	}
	found := &backups{final: final, ours: map[string]devicedb.Summary{}}
	entries, err := os.ReadDir(*directory)
	if err != nil {
		return nil, err
	}
	// Nothing else than what we have named is ever removed, and no link.
	named := regexp.MustCompile(`^\d{8}T\d{6}Z-[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}(\.partial)?$`)
	for _, entry := range entries {
		name := entry.Name()
		if !entry.IsDir() || !named.MatchString(name) {
			continue
		}
		partial := strings.HasSuffix(name, ".partial")
		summary, err := summaryOf(name)
		unreadable := errors.Is(err, devicedb.ErrCorrupt) || errors.Is(err, devicedb.ErrConflict)
		// Of an interrupted run that has no manifest yet nothing is worth keeping; a whole backup that cannot be read is for a person to look at.
		isOurs := unreadable && partial || err == nil && summary.Cluster == made.Cluster && summary.Lineage == made.Lineage
		switch {
		case err != nil && !unreadable:
			return nil, err
		case !isOurs:
			found.others++
		case partial:
			found.left = append(found.left, name)
		default:
			found.names, found.ours[name] = append(found.names, name), summary
		}
	}
	// In the order in which they were taken, whatever clocks said then.
	slices.SortFunc(found.names, func(a, b string) int { return cmp.Compare(found.ours[a].Number, found.ours[b].Number) })
	return found, nil
}

// summaryOf is what a backup holds, or the first of its parts that can say.
func summaryOf(name string) (devicedb.Summary, error) {
	tars, err := filepath.Glob(filepath.Join(*directory, name, "*.tar"))
	if err != nil {
		return devicedb.Summary{}, err
	}
	parts, err := filepath.Glob(filepath.Join(*directory, name, "*.tar*"))
	if err != nil {
		return devicedb.Summary{}, err
	}
	told := fmt.Errorf("%s holds no part: %w", name, devicedb.ErrCorrupt)
	if len(tars) > 0 {
		summary, err := devicedb.Summarize(tars...)
		if err == nil {
			return summary, nil
		}
		told = err
	}
	for _, part := range parts {
		if summary, err := devicedb.Summarize(part); err == nil {
			return summary, nil
		}
	}
	return devicedb.Summary{}, told
}

// compare fails with errSmaller where the newest holds much less than one before it.
func (b *backups) compare() error {
	from := 0
	for i, name := range b.names {
		if _, err := os.Stat(filepath.Join(*directory, name, accepted)); err == nil {
			from = i
		}
	}
	for _, newest := range []string{b.final, b.names[len(b.names)-1]} {
		now := b.ours[newest]
		for _, name := range b.names[from:max(from, slices.Index(b.names, newest))] {
			if then := b.ours[name]; 2*now.Rows < then.Rows || 2*now.Bytes < then.Bytes {
				return fmt.Errorf("the backup is whole, and nothing was removed: %s holds %d rows of %d bytes, and %s holds %d of %d: %w",
					newest, now.Rows, now.Bytes, name, then.Rows, then.Bytes, errSmaller)
			}
		}
	}
	return nil
}

// fetch downloads all parts at once. One that fails does not keep the others from being fetched.
func fetch(ctx context.Context, client *devicedb.Client, uuid string, parts []*devicedbv1.SnapshotPart, into string) ([]string, uint64, error) {
	var mu sync.Mutex
	var wait sync.WaitGroup
	here, total := map[uint64]uint64{}, uint64(0)
	tars, failures := make([]string, len(parts)), make([]error, len(parts))
	for _, part := range parts {
		total += part.GetDownloadBytes()
	}
	sum := func() (bytes uint64) {
		for _, received := range here {
			bytes += received
		}
		return bytes
	}
	for i, part := range parts {
		tars[i] = filepath.Join(into, fmt.Sprintf("snapshot-%s-%d.tar", uuid, part.GetNodeId()))
		wait.Go(func() {
			done, err := client.Snapshots.Download(ctx, uuid, part.GetNodeId(), tars[i], devicedb.OnBytes(func(received, _ uint64) {
				mu.Lock()
				defer mu.Unlock()
				here[part.GetNodeId()] = received
				show("%d of %d MB", sum()/1e6, total/1e6)
			}))
			if err == nil && done.ManifestDigest != part.GetManifestDigest() {
				err = fmt.Errorf("%s: its manifest is not the one that node %d reported: %w", tars[i], part.GetNodeId(), devicedb.ErrCorrupt)
			}
			failures[i] = err
		})
	}
	wait.Wait()
	err := errors.Join(failures...)
	if errors.Is(err, context.Canceled) {
		err = fmt.Errorf("%w: it can be gone on with: -uuid %s", err, uuid)
	}
	return tars, sum(), err
}

// prune removes all backups of this cluster and history but the last, and what interrupted runs left, here and in the cluster.
func prune(ctx context.Context, client *devicedb.Client, found *backups) (int, error) {
	old := found.left
	for _, name := range found.names[:max(0, len(found.names)-*keep)] {
		if name != found.final {
			old = append(old, name)
		}
	}
	for _, name := range old {
		// Aside first, so that half a backup never looks like one.
		bare := strings.TrimSuffix(name, ".partial")
		aside := filepath.Join(*directory, bare+".partial")
		if bare == name {
			if err := os.Rename(filepath.Join(*directory, name), aside); err != nil {
				return 0, err
			}
		}
		// A cluster that was restored refuses to delete what the one before it took: that one may be alive.
		if err := client.Snapshots.Delete(ctx, bare[len(bare)-36:]); err != nil && !errors.Is(err, devicedb.ErrNotFound) && !errors.Is(err, devicedb.ErrConflict) {
			return 0, err
		}
		if err := os.RemoveAll(aside); err != nil {
			return 0, err
		}
	}
	return len(old), nil
}

func (l line) text() string {
	document, err := json.Marshal(l)
	if err != nil {
		panic(fmt.Sprintf("texts and numbers are always JSON: %v", err))
	}
	if *asJSON {
		return string(document)
	}
	// The same fields in the same order, as words.
	var words []string
	decoder := json.NewDecoder(strings.NewReader(string(document)))
	_, _ = decoder.Token()
	for decoder.More() {
		var value any
		key, _ := decoder.Token()
		if err := decoder.Decode(&value); err != nil {
			panic(fmt.Sprintf("what was just written can be read: %v", err))
		}
		text := fmt.Sprint(value)
		if number, ok := value.(float64); ok && number == float64(int64(number)) {
			text = fmt.Sprint(int64(number))
		}
		if strings.Contains(text, " ") {
			text = fmt.Sprintf("%q", text)
		}
		words = append(words, fmt.Sprintf("%v=%s", key, text))
	}
	return strings.Join(words, " ")
}

// show is progress for a person who looks on; cron sees one line.
func show(format string, args ...any) {
	if info, err := os.Stderr.Stat(); err == nil && info.Mode()&os.ModeCharDevice != 0 {
		fmt.Fprintf(os.Stderr, "\r"+format+"\033[K", args...)
	}
}

func syncDirectory(path string) error {
	handle, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(handle.Sync(), handle.Close())
}
