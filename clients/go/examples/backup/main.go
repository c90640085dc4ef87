// Backup backs a cluster up, for cron: it takes a snapshot, fetches the parts of all nodes, verifies them, and keeps the last N.
//
//	backup -endpoints node1:8080,node2:8080,node3:8080 -directory /var/backups/devicedb-parts -keep 7
//	backup -verify /var/backups/devicedb-parts/*/snapshot-*.tar
//
// A backup is a directory TIME-UUID with a tar for each node. It is called TIME-UUID.partial until all in it is verified. A run that was interrupted goes on
// with -uuid; the next that succeeds clears up behind it. Snapshots of backups that are not kept are deleted in the cluster too.
//
// It prints one line a run. It exits with 0 when the backup is whole and verified, 1 when it failed, 2 for wrong arguments, 3 when nodes could not be
// reached in time (try again), 4 when it is not permitted, 5 when something else is in the way (another snapshot, another run), 6 when parts are damaged
// or do not suffice, 130 when it was interrupted.
package main

import (
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
}

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
		if said.Exit == 130 {
			said.Result = "interrupted"
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

// backup is one run; what it finds out goes into the line.
func backup(ctx context.Context, said *line) error {
	client, err := devicedb.Open(*endpoints, devicedb.Options{Timeout: *timeout})
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
	said.Removed, err = prune(ctx, client)
	return err
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

// prune removes all backups but the last, and what interrupted runs left, here and in the cluster.
func prune(ctx context.Context, client *devicedb.Client) (int, error) {
	entries, err := os.ReadDir(*directory)
	if err != nil {
		return 0, err
	}
	// Nothing else than what we have named is ever removed.
	ours := regexp.MustCompile(`^\d{8}T\d{6}Z-[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}(\.partial)?$`)
	var whole, old []string
	for _, entry := range entries {
		switch name := entry.Name(); {
		case !ours.MatchString(name):
		case strings.HasSuffix(name, ".partial"):
			old = append(old, name)
		default:
			whole = append(whole, name)
		}
	}
	slices.Sort(whole)
	old = append(old, whole[:max(0, len(whole)-*keep)]...)
	for _, name := range old {
		// Aside first, so that half a backup never looks like one.
		bare := strings.TrimSuffix(name, ".partial")
		aside := filepath.Join(*directory, bare+".partial")
		if bare == name {
			if err := os.Rename(filepath.Join(*directory, name), aside); err != nil {
				return 0, err
			}
		}
		if err := client.Snapshots.Delete(ctx, bare[len(bare)-36:]); err != nil && !errors.Is(err, devicedb.ErrNotFound) {
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
