package devicedb

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"devicedb.example/go/devicedbv1"
)

// linksMax is how many links are followed to one file, as the kernel bounds them.
const linksMax = 40

// PartialPath is where a download to path keeps what it has, until it is whole: beside the file that a link leads to.
func PartialPath(path string) string { return leadsTo(path) + ".partial" }

// leadsTo is the file that a name means, which need not be there yet.
func leadsTo(path string) string {
	for range linksMax {
		next, err := os.Readlink(path)
		if err != nil {
			break
		}
		if !filepath.IsAbs(next) {
			next = filepath.Join(filepath.Dir(path), next)
		}
		path = next
	}
	return path
}

// receiver is the receiving end of a download: a file that has its name only when it is whole.
//
//   - path.partial holds what has arrived. It is made when the server has something to send, locked against a second download, and becomes path by rename,
//     after an fsync, when every chunk and the digest of the whole are right.
//   - Resuming checks what is there, since nothing else knows whether it is the beginning of the part. A whole path is checked likewise and not written.
//   - A rename would put a regular file in the place of whatever stands there. So where path is a link, what it leads to is replaced, beside itself; a device,
//     a FIFO or a socket is written through as it is, without a partial file, and each download to it begins anew.
//   - Every stream of one download tells of the same node and the same size, and begins where the last one broke off.
type receiver struct {
	uuid          string
	nodeID        uint64
	path, partial string
	total         uint64
	checker       *checker
	file          *os.File
	// begun: a header came; whole: the file is there under its name; through: what stands there is no regular file; ruined: it can never become the part.
	begun, inStream, whole, through, ruined bool
}

func newReceiver(uuid string, nodeID uint64, path string, resume bool) (*receiver, error) {
	r := &receiver{uuid: uuid, nodeID: nodeID, path: path, partial: PartialPath(path), checker: newChecker("the stream")}
	err := r.look()
	if err == nil && resume && !r.through {
		err = r.resume()
	}
	if err == nil {
		return r, nil
	}
	if errors.Is(err, ErrCorrupt) {
		err = r.discard(err)
	}
	r.close()
	var told *Error
	if errors.As(err, &told) {
		return nil, err
	}
	return nil, r.unusable(err)
}

// look decides by what stands there how it is written.
func (r *receiver) look() error {
	info, err := os.Stat(r.path)
	switch {
	case errors.Is(err, os.ErrNotExist) && strings.HasSuffix(r.path, "/"):
		return newError(ErrLocalFile, "there is no directory %s: make it, or name a file", r.path)
	case errors.Is(err, os.ErrNotExist):
		return nil
	case err != nil:
		return err
	case info.IsDir():
		return newError(ErrLocalFile, "%s is a directory, and the part wants a file: name a file in it", r.path)
	case info.Mode().IsRegular():
		return nil
	}
	r.through = true
	// As a shell's > does: a FIFO waits for its reader.
	r.file, err = os.OpenFile(r.path, os.O_WRONLY, 0)
	return err
}

func (r *receiver) resume() error {
	if _, err := os.Stat(r.partial); err == nil {
		if err := r.open(); err != nil {
			return err
		}
		r.checker.whence = r.partial
		return pour(r.partial, r.checker)
	}
	if _, err := os.Stat(r.path); err == nil {
		r.whole = true
		r.checker.whence = r.path
		return pour(r.path, r.checker)
	}
	return nil
}

// request asks for what is still to come, of a stream that begins now.
func (r *receiver) request() *devicedbv1.DownloadSnapshotRequest {
	r.inStream = false
	return &devicedbv1.DownloadSnapshotRequest{Uuid: r.uuid, NodeId: r.nodeID, Offset: r.checker.received}
}

// take is true when everything is here and is what was sent.
func (r *receiver) take(message *devicedbv1.DownloadSnapshotResponse) (bool, error) {
	switch piece := message.GetPiece().(type) {
	case *devicedbv1.DownloadSnapshotResponse_Header:
		if r.inStream {
			return false, newError(ErrFailed, "the stream is not a download: a second header came")
		}
		return false, r.begin(piece.Header)
	case *devicedbv1.DownloadSnapshotResponse_Data:
		if r.inStream {
			return false, r.write(piece.Data)
		}
	case *devicedbv1.DownloadSnapshotResponse_Trailer:
		if r.inStream {
			return true, r.checkTrailer(piece.Trailer)
		}
	}
	if !r.inStream {
		return false, newError(ErrFailed, "the stream is not a download: it does not begin with a header")
	}
	// Anything else is from a newer server. If it matters, the digest will not fit.
	return false, nil
}

func (r *receiver) begin(header *devicedbv1.DownloadHeader) error {
	received := r.checker.received
	switch {
	case r.nodeID != 0 && r.nodeID != header.GetNodeId():
		return newError(ErrFailed, "the part of node %d was asked for and that of node %d came", r.nodeID, header.GetNodeId())
	case received > header.GetTotalBytes():
		return newError(ErrLocalFile, "%s is from something else: it has %d bytes and the part has %d: move it away", r.kept(), received, header.GetTotalBytes())
	case r.begun && r.total != header.GetTotalBytes():
		return r.discard(newError(ErrCorrupt, "the part had %d bytes and now has %d", r.total, header.GetTotalBytes()))
	case header.GetOffset() != received:
		return newError(ErrFailed, "the stream begins at byte %d and not at %d", header.GetOffset(), received)
	}
	r.begun, r.inStream, r.nodeID, r.total = true, true, header.GetNodeId(), header.GetTotalBytes()
	if r.file != nil || r.whole {
		return nil
	}
	if err := r.open(); err != nil {
		return err
	}
	if err := r.file.Truncate(0); err != nil {
		return r.unusable(err)
	}
	return nil
}

func (r *receiver) write(data []byte) error {
	if uint64(len(data)) > r.total-r.checker.received {
		return r.discard(newError(ErrCorrupt, "more came than the %d bytes of the part", r.total))
	}
	if r.file == nil {
		return newError(ErrLocalFile, "%s has its name and is not whole: move it away", r.path)
	}
	if _, err := r.file.Write(data); err != nil {
		return r.unusable(err)
	}
	_, err := r.checker.Write(data)
	if errors.Is(err, ErrCorrupt) {
		return r.discard(err)
	}
	return err
}

func (r *receiver) checkTrailer(trailer *devicedbv1.DownloadTrailer) error {
	if trailer.GetTotalBytes() != r.total {
		return r.discard(newError(ErrCorrupt, "the part had %d bytes and now has %d", r.total, trailer.GetTotalBytes()))
	}
	if r.checker.received < r.total {
		return newError(ErrFailed, "the stream says that it is complete after %d of %d bytes", r.checker.received, r.total)
	}
	if ours := r.checker.digest(); !strings.EqualFold(ours, trailer.GetDigest()) {
		return r.discard(newError(ErrCorrupt, "the bytes are not what was sent: their blake3 is %s and should be %s", ours, trailer.GetDigest()))
	}
	return nil
}

// finish gives the file its name.
func (r *receiver) finish() (*Part, error) {
	part, err := r.checker.finish(r.path)
	if err != nil {
		return nil, r.discard(err)
	}
	if r.file == nil {
		return part, nil
	}
	// One after the other: what could not be synced does not get its name.
	target := strings.TrimSuffix(r.partial, ".partial")
	steps := []func() error{
		r.file.Sync,
		func() error { return os.Rename(r.partial, target) },
		r.file.Close,
		func() error { return syncDirectory(filepath.Dir(target)) },
	}
	if r.through {
		steps = []func() error{r.syncThrough, r.file.Close}
	}
	for _, step := range steps {
		if err := step(); err != nil {
			return nil, r.unusable(err)
		}
	}
	r.file = nil
	return part, nil
}

// syncThrough: of what is written through, only a disk has something to sync.
func (r *receiver) syncThrough() error {
	err := r.file.Sync()
	if errors.Is(err, syscall.EINVAL) || errors.Is(err, syscall.EROFS) || errors.Is(err, syscall.ENOTSUP) {
		return nil
	}
	return err
}

// close lets go of the file; it takes it away where nothing of the part is in it.
func (r *receiver) close() {
	r.checker.close()
	if r.file == nil {
		return
	}
	_ = r.file.Close()
	r.file = nil
	if r.through {
		return
	}
	if info, err := os.Stat(r.partial); err == nil && (r.ruined || info.Size() == 0) {
		_ = os.Remove(r.partial)
	}
}

// cutShort is the same error, with what is left and how to go on.
func (r *receiver) cutShort(e *Error) error {
	r.close()
	ofTotal, again := "", ": the same call goes on there"
	if r.begun {
		ofTotal = fmt.Sprintf(" of %d", r.total)
	}
	if received := r.checker.received; r.through && received > 0 {
		e.Message = fmt.Sprintf("the download of %s is incomplete: %s: %s got %d%s bytes: that is no part: throw it away and download again",
			r.whose(), e.Message, r.path, received, ofTotal)
	}
	info, err := os.Stat(r.partial)
	if r.through || err != nil {
		return e
	}
	if e.Kind == ErrInvalidArgument || e.Kind == ErrNotFound || e.Kind == ErrCorrupt {
		again = ""
	}
	e.Partial = r.partial
	e.Message = fmt.Sprintf("the download of %s is incomplete: %s: %s holds %d%s bytes%s", r.whose(), e.Message, r.partial, info.Size(), ofTotal, again)
	return e
}

func (r *receiver) whose() string {
	if r.nodeID == 0 {
		return fmt.Sprintf("a part of snapshot %s", r.uuid)
	}
	return fmt.Sprintf("the part of node %d of snapshot %s", r.nodeID, r.uuid)
}

func (r *receiver) kept() string {
	if r.whole || r.through {
		return r.path
	}
	return r.partial
}

func (r *receiver) open() error {
	// Nothing but a file of its own, since it is cut short, renamed and removed.
	if info, err := os.Lstat(r.partial); err == nil && !info.Mode().IsRegular() {
		return newError(ErrLocalFile, "%s is no file that a download left: move it away", r.partial)
	}
	// Its owner's alone: it holds all data, unless it is sealed.
	file, err := os.OpenFile(r.partial, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return r.unusable(err)
	}
	if err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		_ = file.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return newError(ErrLocalFile, "another download is writing %s: wait for it", r.partial)
		}
		return r.unusable(err)
	}
	r.file = file
	return nil
}

func (r *receiver) discard(why error) error {
	if r.whole {
		return newError(ErrLocalFile, "%s is not this part: %v: move it away", r.path, why)
	}
	r.ruined = true
	r.close()
	if r.through {
		return why
	}
	return newError(ErrCorrupt, "%v: the partial file was removed, since it can never become the part: download it again", why)
}

func (r *receiver) unusable(err error) error {
	return newError(ErrLocalFile, "cannot use %s: %v: free its disk or name another path", r.kept(), err).because(err)
}

func syncDirectory(path string) error {
	directory, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(directory.Sync(), directory.Close())
}
