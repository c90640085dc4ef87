package devicedb

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"reflect"
	"strconv"
	"strings"

	"github.com/klauspost/compress/zstd"
	"github.com/zeebo/blake3"
)

// A part is manifest.json, then chunks/<hash> sorted by hash, then two empty blocks. The manifest's last line is the blake3 of all lines before it. A chunk
// is one zstd frame whose own blake3 and size stand in the manifest, and its name is the blake3 of what it decompresses to. The rows inside chunks are not
// looked at, nor their order: `ddbctl snapshot verify` does that too. Chunks of a sealed part are compared with what was stored and not opened: that takes
// the identity file of a recipient, `ddbctl snapshot verify --identity`.
const (
	block            = 512
	formatMax        = 4
	manifestBytesMax = 512 << 20
	chunkBytesMax    = 72 << 20
)

// Part is a sound part of a snapshot in a file.
type Part struct {
	Path string
	// Snapshot is the snapshot's uuid.
	Snapshot string
	// Lineage is the history it belongs to.
	Lineage string
	NodeID  uint64
	// Bytes of the tar.
	Bytes uint64
	// Digest is the blake3 of the tar, in hex.
	Digest string
	// ManifestDigest is the blake3 of the manifest, in hex, as SnapshotPart.manifest_digest has it.
	ManifestDigest string
	Chunks         int
	Rows           uint64
	// Cluster is the cluster that it is of.
	Cluster string
	// SealedTo is who can read its rows, if it is sealed; then they were not looked at.
	SealedTo []string
}

// Summary is what parts of one snapshot hold together, as their manifests say.
type Summary struct {
	// Snapshot is the snapshot's uuid.
	Snapshot string
	// Cluster is the cluster that it is of.
	Cluster string
	// Lineage is the history it belongs to.
	Lineage string
	// Number of the snapshot in that history: later ones have higher ones.
	Number uint64
	Parts  int
	// Rows of sites, of each partition once.
	Rows uint64
	// Bytes of those rows before compression.
	Bytes uint64
}

type manifest struct {
	Format     int              `json:"format"`
	Snapshot   string           `json:"snapshot"`
	Seq        uint64           `json:"seq"`
	X          uint64           `json:"x"` // as formats 1 and 2 call it
	Cluster    string           `json:"cluster"`
	Lineage    string           `json:"lineage"`
	Node       string           `json:"node"`
	Partitions int              `json:"partitions"`
	Groups     int              `json:"groups"`
	Seal       *manifestSeal    `json:"seal"`
	Meta       *manifestGroup   `json:"meta"`
	Parts      []*manifestGroup `json:"parts"`
	Chunks     []manifestChunk  `json:"chunks"`
}

type manifestSeal struct {
	Recipients []string `json:"recipients"`
	Wrapped    string   `json:"wrapped"`
}

type manifestGroup struct {
	Group     int      `json:"group"`
	MarkIndex uint64   `json:"mark_index"`
	MarkTerm  uint64   `json:"mark_term"`
	Dots      uint64   `json:"dots"`
	Voters    []string `json:"voters"`
	Learners  []string `json:"learners"`
	// Of the meta group only.
	Rows       uint64              `json:"rows"`
	Digest     string              `json:"digest"`
	Partitions []manifestPartition `json:"partitions"`
}

type manifestPartition struct {
	ID        int    `json:"id"`
	DataIndex uint64 `json:"data_index"`
	Rows      uint64 `json:"rows"`
	Bytes     uint64 `json:"bytes"`
	Digest    string `json:"digest"`
}

type manifestChunk struct {
	Hash         string `json:"hash"`
	Rows         uint64 `json:"rows"`
	Bytes        uint64 `json:"bytes"`
	StoredBytes  uint64 `json:"stored_bytes"`
	StoredDigest string `json:"stored_digest"`
}

// checker takes a tar's bytes in order, in pieces of any size, and fails with ErrCorrupt at the first that cannot belong to a part.
type checker struct {
	whence         string
	received       uint64
	manifest       manifest
	manifestDigest string

	hasher *blake3.Hasher
	unzip  *zstd.Decoder
	buffer []byte
	at     uint64
	wanted uint64
	// next takes the wanted bytes; it says what is wanted then, and who takes it. Nil at the end.
	next  step
	chunk int
}

type step func(c *checker, data []byte) (wanted uint64, next step, wrong error)

func newChecker(whence string) *checker {
	unzip, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(chunkBytesMax))
	if err != nil {
		panic(fmt.Sprintf("zstd refuses constant options: %v", err))
	}
	return &checker{whence: whence, hasher: blake3.New(), unzip: unzip, wanted: block, next: takeManifestHeader}
}

// Write feeds it.
func (c *checker) Write(data []byte) (int, error) {
	_, _ = c.hasher.Write(data)
	c.received += uint64(len(data))
	c.buffer = append(c.buffer, data...)
	rest := c.buffer
	for c.next != nil && uint64(len(rest)) >= c.wanted {
		taken := rest[:c.wanted]
		rest = rest[c.wanted:]
		c.at += c.wanted
		wanted, next, wrong := c.next(c, taken)
		if wrong != nil {
			return 0, wrong
		}
		c.wanted, c.next = wanted, next
	}
	c.buffer = c.buffer[:copy(c.buffer, rest)]
	if c.next == nil && len(c.buffer) > 0 {
		return 0, c.wrong("bytes stand behind its end")
	}
	return len(data), nil
}

func (c *checker) digest() string { return hex.EncodeToString(c.hasher.Sum(nil)) }

func (c *checker) close() { c.unzip.Close() }

// finish says what the tar is, all of it having come.
func (c *checker) finish(path string) (*Part, error) {
	if c.next != nil {
		return nil, c.wrong("it ends too early")
	}
	node, err := strconv.ParseUint(c.manifest.Node, 10, 64)
	if err != nil {
		return nil, c.wrong("its node %q is no number", c.manifest.Node)
	}
	part := &Part{
		Path: path, Snapshot: c.manifest.Snapshot, Lineage: c.manifest.Lineage, NodeID: node, Bytes: c.received, Digest: c.digest(),
		ManifestDigest: c.manifestDigest, Chunks: len(c.manifest.Chunks), Cluster: c.manifest.Cluster,
	}
	for _, chunk := range c.manifest.Chunks {
		part.Rows += chunk.Rows
	}
	if c.manifest.Seal != nil {
		part.SealedTo = c.manifest.Seal.Recipients
	}
	return part, nil
}

func (c *checker) wrong(format string, args ...any) error {
	return newError(ErrCorrupt, "%s: at byte %d: %s", c.whence, c.at, fmt.Sprintf(format, args...))
}

// header checks that a regular file of this name stands there, and returns its size.
func (c *checker) header(data []byte, name string) (uint64, error) {
	var sum int64
	for i, b := range data {
		if i >= 148 && i < 156 {
			b = ' '
		}
		sum += int64(b)
	}
	octal := func(field []byte) int64 {
		n, err := strconv.ParseInt(strings.Trim(string(field), "\x00 "), 8, 64)
		if err != nil {
			return -1
		}
		return n
	}
	size, found := octal(data[124:136]), string(bytes.TrimRight(data[:100], "\x00"))
	if octal(data[148:156]) != sum || size < 0 {
		return 0, c.wrong("the header of %s is damaged", name)
	}
	if found != name || data[156] != '0' {
		return 0, c.wrong("%s should stand here, and %q does", name, found)
	}
	return uint64(size), nil
}

func takeManifestHeader(c *checker, data []byte) (uint64, step, error) {
	size, err := c.header(data, "manifest.json")
	if err == nil && size > manifestBytesMax {
		err = c.wrong("the manifest has %d bytes, more than %d", size, manifestBytesMax)
	}
	return size, takeManifest, err
}

func takeManifest(c *checker, text []byte) (uint64, step, error) {
	size := uint64(len(text))
	head, _, _ := bytes.Cut(text[:min(len(text), 64)], []byte(","))
	format, err := strconv.Atoi(string(bytes.TrimPrefix(head, []byte(`{"format":`))))
	if err != nil || format < 1 {
		return 0, nil, c.wrong("it does not begin as the manifest of a part begins")
	}
	if format > formatMax {
		return 0, nil, newError(ErrConflict, "%s: this part was written by a newer version: format %d, this client reads up to %d", c.whence, format, formatMax)
	}
	lastLine := func(digest string) string { return fmt.Sprintf("\"digest\":%q}\n", digest) }
	body := text[:max(0, len(text)-len(lastLine(strings.Repeat("0", 64))))]
	sum := blake3.Sum256(body)
	c.manifestDigest = hex.EncodeToString(sum[:])
	if string(text[len(body):]) != lastLine(c.manifestDigest) {
		return 0, nil, c.wrong("the manifest was changed or cut short after it was written")
	}
	if err := json.Unmarshal(text, &c.manifest); err != nil {
		return 0, nil, c.wrong("the manifest cannot be read: %v", err)
	}
	if c.manifest.Seq == 0 {
		c.manifest.Seq = c.manifest.X
	}
	return c.padding(size)
}

func (c *checker) padding(size uint64) (uint64, step, error) {
	return -size % block, func(c *checker, data []byte) (uint64, step, error) {
		if !empty(data) {
			return 0, nil, c.wrong("what fills the last block of a file is not empty")
		}
		if c.chunk < len(c.manifest.Chunks) {
			return block, takeChunkHeader, nil
		}
		return 2 * block, takeEnd, nil
	}, nil
}

func takeChunkHeader(c *checker, data []byte) (uint64, step, error) {
	chunk := c.manifest.Chunks[c.chunk]
	size, err := c.header(data, "chunks/"+chunk.Hash)
	if err == nil && size != chunk.StoredBytes {
		err = c.wrong("chunks/%s has %d bytes, not %d", chunk.Hash, size, chunk.StoredBytes)
	}
	return size, takeChunk, err
}

func takeChunk(c *checker, frame []byte) (uint64, step, error) {
	chunk := c.manifest.Chunks[c.chunk]
	if sum := blake3.Sum256(frame); hex.EncodeToString(sum[:]) != chunk.StoredDigest {
		return 0, nil, c.wrong("the stored bytes of chunk %s are not those that were written", chunk.Hash)
	}
	if c.manifest.Seal != nil {
		c.chunk++
		return c.padding(uint64(len(frame)))
	}
	var header zstd.Header
	if err := header.Decode(frame); err != nil || chunk.Bytes > chunkBytesMax || header.FrameContentSize != chunk.Bytes {
		return 0, nil, c.wrong("chunk %s cannot be decompressed: it has not the size that the manifest says", chunk.Hash)
	}
	plain, err := c.unzip.DecodeAll(frame, make([]byte, 0, chunk.Bytes))
	if err != nil {
		return 0, nil, c.wrong("chunk %s cannot be decompressed: %v", chunk.Hash, err)
	}
	if sum := blake3.Sum256(plain); hex.EncodeToString(sum[:]) != chunk.Hash {
		return 0, nil, c.wrong("the content of chunk %s is not what its name says", chunk.Hash)
	}
	c.chunk++
	return c.padding(uint64(len(frame)))
}

func takeEnd(c *checker, data []byte) (uint64, step, error) {
	if !empty(data) {
		return 0, nil, c.wrong("its last two blocks are not empty: it holds more than its manifest says")
	}
	return 0, nil, nil
}

func empty(data []byte) bool { return len(bytes.Trim(data, "\x00")) == 0 }

// pour feeds a whole file to a checker.
func pour(path string, into *checker) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer func() { _ = file.Close() }()
	_, err = io.CopyBuffer(struct{ io.Writer }{into}, struct{ io.Reader }{file}, make([]byte, 1<<20))
	return err
}

// Summarize is what downloaded tars of one snapshot say that they hold. Only their manifests are read and checked, so a partial file will do that has its
// manifest.
//
// Errors: ErrInvalidArgument when no path was given; ErrCorrupt when a manifest is damaged or not there yet, or the parts are not of one snapshot;
// ErrConflict for a part of a newer version; ErrLocalFile when a file cannot be read.
func Summarize(paths ...string) (Summary, error) {
	var sum Summary
	if len(paths) == 0 {
		return sum, newError(ErrInvalidArgument, "cannot summarize: no path was given")
	}
	rows, size := map[int]uint64{}, map[int]uint64{}
	for _, path := range paths {
		m, err := manifestOf(path)
		if err != nil {
			return Summary{}, err
		}
		one := Summary{Snapshot: m.Snapshot, Cluster: m.Cluster, Lineage: m.Lineage, Number: m.Seq}
		if sum.Parts > 0 && one != (Summary{Snapshot: sum.Snapshot, Cluster: sum.Cluster, Lineage: sum.Lineage, Number: sum.Number}) {
			return Summary{}, newError(ErrCorrupt, "%s: it is of snapshot %s of cluster %s, lineage %s, and %s is of snapshot %s of cluster %s, lineage %s: they "+
				"are not one snapshot", path, one.Snapshot, one.Cluster, one.Lineage, paths[0], sum.Snapshot, sum.Cluster, sum.Lineage)
		}
		sum.Snapshot, sum.Cluster, sum.Lineage, sum.Number = one.Snapshot, one.Cluster, one.Lineage, one.Number
		sum.Parts++
		for _, group := range m.Parts {
			for _, p := range group.Partitions {
				rows[p.ID], size[p.ID] = max(rows[p.ID], p.Rows), max(size[p.ID], p.Bytes)
			}
		}
	}
	for id := range rows {
		sum.Rows, sum.Bytes = sum.Rows+rows[id], sum.Bytes+size[id]
	}
	return sum, nil
}

// manifestOf reads no further than the manifest.
func manifestOf(path string) (*manifest, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, newError(ErrLocalFile, "cannot read %s: %v", path, err).because(err)
	}
	defer func() { _ = file.Close() }()
	c := newChecker(path)
	defer c.close()
	for c.manifest.Format == 0 {
		data := make([]byte, c.wanted)
		if _, err := io.ReadFull(file, data); errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return nil, newError(ErrCorrupt, "%s: its manifest is not whole", path)
		} else if err != nil {
			return nil, newError(ErrLocalFile, "cannot read %s: %v", path, err).because(err)
		}
		if _, err := c.Write(data); err != nil {
			return nil, err
		}
	}
	return &c.manifest, nil
}

// Verify checks downloaded tars without a cluster: every byte of each, and that together they are one snapshot from which a cluster comes back.
//
// One part alone is judged by itself. Several are to be of one snapshot and history, each of another node, agree on what they both hold, cover every
// partition, and hold for every group the parts of most of its voters.
//
// Errors: ErrInvalidArgument without a path; ErrCorrupt when a part is damaged, or the parts do not fit or do not suffice, with the file, the byte and what
// is wrong; ErrConflict for a part of a newer version; ErrLocalFile when a file cannot be read.
func Verify(paths ...string) ([]*Part, error) {
	if len(paths) == 0 {
		return nil, newError(ErrInvalidArgument, "cannot verify: no path was given")
	}
	var parts []*Part
	var manifests []*manifest
	for _, path := range paths {
		c := newChecker(path)
		err := pour(path, c)
		c.close()
		var told *Error
		if err != nil && !errors.As(err, &told) {
			return nil, newError(ErrLocalFile, "cannot read %s: %v", path, err).because(err)
		}
		if err != nil {
			return nil, err
		}
		part, err := c.finish(path)
		if err != nil {
			return nil, err
		}
		parts, manifests = append(parts, part), append(manifests, &c.manifest)
	}
	if len(parts) > 1 {
		if err := checkSet(parts, manifests); err != nil {
			return nil, err
		}
	}
	return parts, nil
}

func checkSet(parts []*Part, manifests []*manifest) error {
	type fact struct {
		said any
		by   string
	}
	identity := func(m *manifest) string {
		return fmt.Sprintf("snapshot %s number %d of cluster %s in lineage %s with %d partitions in %d groups", m.Snapshot, m.Seq, m.Cluster, m.Lineage, m.Partitions, m.Groups)
	}
	nodes, facts := map[string]string{}, map[string]fact{}
	voters, present := map[int][]string{}, map[int]map[string]bool{}
	for i, m := range manifests {
		path := parts[i].Path
		if ours, theirs := identity(m), identity(manifests[0]); ours != theirs {
			return newError(ErrCorrupt, "%s: it is of %s, and %s is of %s: they are not one snapshot", path, ours, parts[0].Path, theirs)
		}
		if other, twice := nodes[m.Node]; twice {
			return newError(ErrCorrupt, "%s: it is of node %s, as is %s", path, m.Node, other)
		}
		nodes[m.Node] = path
		say := func(about string, said any) error {
			first, known := facts[about]
			if !known {
				facts[about] = fact{said, path}
			} else if !reflect.DeepEqual(first.said, said) {
				return newError(ErrCorrupt, "%s: %s is %v here and %v in %s", path, about, said, first.said, first.by)
			}
			return nil
		}
		// Names of chunks, and digests of them, are those of one seal.
		under := ""
		if m.Seal != nil {
			sum := blake3.Sum256([]byte(m.Seal.Wrapped))
			under = " under seal " + hex.EncodeToString(sum[:4])
		}
		groups := m.Parts
		if m.Meta != nil {
			meta := *m.Meta
			meta.Group = -1
			groups = append([]*manifestGroup{&meta}, groups...)
		}
		for _, g := range groups {
			mark := []any{g.MarkIndex, g.MarkTerm, g.Dots, g.Voters, g.Learners, g.Rows}
			if err := say(groupName(g.Group), mark); err != nil {
				return err
			}
			if err := say(fmt.Sprintf("the digest%s of %s", under, groupName(g.Group)), g.Digest); err != nil {
				return err
			}
			for _, p := range g.Partitions {
				if err := say(fmt.Sprintf("the digest%s of partition %d", under, p.ID), p.Digest); err != nil {
					return err
				}
				p.Digest = ""
				if err := say(fmt.Sprintf("partition %d", p.ID), p); err != nil {
					return err
				}
			}
			if present[g.Group] == nil {
				voters[g.Group], present[g.Group] = g.Voters, map[string]bool{}
			}
			present[g.Group][m.Node] = true
		}
	}
	var missing []int
	for p := range manifests[0].Partitions {
		if _, known := facts[fmt.Sprintf("partition %d", p)]; !known {
			missing = append(missing, p)
		}
	}
	if len(missing) > 0 {
		return newError(ErrCorrupt, "the parts lack %d partitions, the first of them %d", len(missing), missing[0])
	}
	for group := -1; group < manifests[0].Groups; group++ {
		count := 0
		for _, voter := range voters[group] {
			if present[group][voter] {
				count++
			}
		}
		if 2*count <= len(voters[group]) {
			return newError(ErrCorrupt, "the parts at hand are not of a majority of the voters of %s: a restore of them does not come up", groupName(group))
		}
	}
	return nil
}

func groupName(group int) string {
	if group < 0 {
		return "the meta group"
	}
	return fmt.Sprintf("group %d", group)
}
