package devicedb

import (
	"context"
	"errors"
	"time"

	"google.golang.org/grpc"

	"devicedb.example/go/devicedbv1"
)

// Snapshots of a cluster, named by uuids.
type Snapshots struct{ client *Client }

// Create takes a snapshot of the whole cluster. Options: Wait, WithUUID, WaitTimeout, OnSnapshot.
//
// Errors: ErrFailed when it cannot be completed any more, with the reason; ErrConflict when another snapshot is being taken; ErrUnavailable when
// WaitTimeout is over or no node answers, and then Status tells later. With Wait a deadline of the context ends the wait; each look has Options.Timeout.
func (s *Snapshots) Create(ctx context.Context, options ...Option) (*devicedbv1.Snapshot, error) {
	set, err := settle("Create", options, "Wait", "WithUUID", "WaitTimeout", "OnSnapshot")
	if err != nil {
		return nil, err
	}
	id := set.requestID
	if set.uuid != "" {
		if id, err = parseUUID(set.uuid); err != nil {
			return nil, err
		}
	}
	uuid := uuidText(id)
	began, pause := time.Now(), lookMin
	f := s.client.write(id, "take snapshot %s", uuid)
	answer, err := call(ctx, s.client, f, "", false, func(ctx context.Context, n *node, q *devicedbv1.CreateSnapshotRequest) (*devicedbv1.CreateSnapshotResponse, error) {
		return n.snapshots.CreateSnapshot(ctx, q)
	}, &devicedbv1.CreateSnapshotRequest{RequestId: id})
	if err != nil {
		return nil, err
	}
	for snapshot := answer.GetSnapshot(); ; {
		if set.onSnapshot != nil {
			set.onSnapshot(snapshot)
		}
		switch snapshot.GetStatus() {
		case devicedbv1.SnapshotStatus_SNAPSHOT_STATUS_FAILED, devicedbv1.SnapshotStatus_SNAPSHOT_STATUS_DAMAGED:
			return snapshot, newError(ErrFailed, "snapshot %s failed: %s", uuid, snapshot.GetReason())
		case devicedbv1.SnapshotStatus_SNAPSHOT_STATUS_MISSING, devicedbv1.SnapshotStatus_SNAPSHOT_STATUS_DELETING:
			return snapshot, newError(ErrFailed, "snapshot %s failed: it was deleted meanwhile", uuid)
		}
		if !set.wait || !underWay(snapshot) {
			return snapshot, nil
		}
		if time.Since(began)+pause > set.waitTimeout {
			return snapshot, newError(ErrUnavailable, "snapshot %s is still processing after %v: it goes on; look with Status", uuid, set.waitTimeout)
		}
		if !sleep(ctx, pause) {
			return snapshot, newError(ErrUnavailable, "snapshot %s is still processing: it goes on; look with Status", uuid).because(ctx.Err())
		}
		pause = min(2*pause, lookMax)
		looked, cancel := context.WithTimeout(ctx, s.client.timeout)
		snapshot, err = s.look(looked, uuid, true)
		cancel()
		if err != nil {
			return nil, err
		}
	}
}

// Upload has the nodes store a completed snapshot in their repository. What is stored is not stored again. Options: Wait, WaitTimeout.
//
// Errors: ErrFailed when it was given up, with the reason, and then the same call goes on where it ended; ErrConflict when the node that was asked has no
// repository; ErrUnavailable when WaitTimeout is over or no node answers, and then Status tells later.
func (s *Snapshots) Upload(ctx context.Context, uuid string, options ...Option) (*devicedbv1.Upload, error) {
	set, err := settle("Upload", options, "Wait", "WaitTimeout")
	if err != nil {
		return nil, err
	}
	id, err := parseUUID(uuid)
	if err != nil {
		return nil, err
	}
	uuid = uuidText(id)
	began, pause := time.Now(), lookMin
	f := s.client.write(nil, "upload snapshot %s", uuid)
	for upload := (*devicedbv1.Upload)(nil); ; {
		switch upload.GetStatus() {
		case devicedbv1.UploadStatus_UPLOAD_STATUS_RUNNING, devicedbv1.UploadStatus_UPLOAD_STATUS_STORED, devicedbv1.UploadStatus_UPLOAD_STATUS_FAILED:
		default:
			// At first, and where the node that had it stored has ended.
			answer, err := call(ctx, s.client, f, "", true, func(ctx context.Context, n *node, q *devicedbv1.UploadSnapshotRequest) (*devicedbv1.UploadSnapshotResponse, error) {
				return n.snapshots.UploadSnapshot(ctx, q)
			}, &devicedbv1.UploadSnapshotRequest{Uuid: uuid})
			if err != nil {
				return nil, err
			}
			upload = answer.GetUpload()
		}
		if upload.GetStatus() == devicedbv1.UploadStatus_UPLOAD_STATUS_FAILED {
			return upload, newError(ErrFailed, "snapshot %s is not stored: %s", uuid, upload.GetReason())
		}
		if !set.wait || upload.GetStatus() == devicedbv1.UploadStatus_UPLOAD_STATUS_STORED {
			return upload, nil
		}
		if time.Since(began)+pause > set.waitTimeout {
			return upload, newError(ErrUnavailable, "snapshot %s is not stored after %v: it goes on; look with Status", uuid, set.waitTimeout)
		}
		if !sleep(ctx, pause) {
			return upload, newError(ErrUnavailable, "snapshot %s is not stored yet: it goes on; look with Status", uuid).because(ctx.Err())
		}
		pause = min(2*pause, lookMax)
		looked, cancel := context.WithTimeout(ctx, s.client.timeout)
		snapshot, err := s.look(looked, uuid, true)
		cancel()
		if err != nil {
			return nil, err
		}
		upload = snapshot.GetUpload()
	}
}

// Status is how far a snapshot is, in the cluster and on each node. An unknown one has SNAPSHOT_STATUS_MISSING and is no error.
func (s *Snapshots) Status(ctx context.Context, uuid string) (*devicedbv1.Snapshot, error) {
	return s.look(ctx, uuid, false)
}

// List is the snapshots, newest first.
func (s *Snapshots) List(ctx context.Context) ([]*devicedbv1.Snapshot, error) {
	return pages(ctx, s.client, s.client.read("list the snapshots"), func(ctx context.Context, n *node, token string) ([]*devicedbv1.Snapshot, string, error) {
		page, err := n.snapshots.ListSnapshots(ctx, &devicedbv1.ListSnapshotsRequest{PageToken: token})
		return page.GetSnapshots(), page.GetNextPageToken(), err
	})
}

// Delete deletes a snapshot on every node and gives its space back; a node that is away does so when it returns.
func (s *Snapshots) Delete(ctx context.Context, uuid string) error {
	id, err := parseUUID(uuid)
	if err != nil {
		return err
	}
	f := s.client.write(nil, "delete snapshot %s", uuidText(id))
	return remove(ctx, s.client, f, func(ctx context.Context, n *node, q *devicedbv1.DeleteSnapshotRequest) (*devicedbv1.DeleteSnapshotResponse, error) {
		return n.snapshots.DeleteSnapshot(ctx, q)
	}, &devicedbv1.DeleteSnapshotRequest{Uuid: uuidText(id)})
}

// Download fetches one node's part as a tar, checking every chunk and the digest of the whole. Node 0 is the node that is asked.
//
// What has arrived stands in PartialPath(path), and gets its name by rename when it is whole and on disk. A stream that breaks is opened again at the byte
// where it broke, at any endpoint, for as long as bytes keep coming. When it fails, or the context ends, the partial file stays, Error.Partial names it, and
// the same call goes on there. A whole file at path is compared and not written. Options: Afresh, OnBytes.
//
// Errors: ErrUnavailable when no node could go on in time, or the context ended; ErrNotFound for no such part; ErrCorrupt when what came, or what lay
// there, can never become the part, and the partial file was removed; ErrLocalFile when the file cannot be written, is something else, or is being
// written by another download.
func (s *Snapshots) Download(ctx context.Context, uuid string, nodeID uint64, path string, options ...Option) (*Part, error) {
	set, err := settle("Download", options, "Afresh", "OnBytes")
	if err != nil {
		return nil, err
	}
	id, err := parseUUID(uuid)
	if err != nil {
		return nil, err
	}
	r, err := newReceiver(uuidText(id), nodeID, path, !set.fresh)
	if err != nil {
		return nil, err
	}
	defer r.close()
	take := func(piece *devicedbv1.DownloadSnapshotResponse) (bool, bool, error) {
		done, err := r.take(piece)
		if err == nil && set.onBytes != nil && r.begun {
			set.onBytes(r.checker.received, r.total)
		}
		return done, len(piece.GetData()) > 0, err
	}
	err = stream(ctx, s.client, s.client.read("download %s", r.whose()), false, func(ctx context.Context, n *node, q *devicedbv1.DownloadSnapshotRequest) (grpc.ServerStreamingClient[devicedbv1.DownloadSnapshotResponse], error) {
		return n.snapshots.DownloadSnapshot(ctx, q)
	}, r.request, take)
	var part *Part
	if err == nil {
		part, err = r.finish()
	}
	var e *Error
	if errors.As(err, &e) {
		return nil, r.cutShort(e)
	}
	return part, err
}

func (s *Snapshots) look(ctx context.Context, uuid string, patient bool) (*devicedbv1.Snapshot, error) {
	id, err := parseUUID(uuid)
	if err != nil {
		return nil, err
	}
	answer, err := call(ctx, s.client, s.client.read("look at snapshot %s", uuidText(id)), "", patient, func(ctx context.Context, n *node, q *devicedbv1.GetSnapshotRequest) (*devicedbv1.GetSnapshotResponse, error) {
		return n.snapshots.GetSnapshot(ctx, q)
	}, &devicedbv1.GetSnapshotRequest{Uuid: uuidText(id)})
	return answer.GetSnapshot(), err
}

// underWay is whether something may still come.
func underWay(snapshot *devicedbv1.Snapshot) bool {
	processing := devicedbv1.SnapshotStatus_SNAPSHOT_STATUS_PROCESSING
	for _, part := range snapshot.GetParts() {
		if part.GetStatus() == processing {
			return true
		}
	}
	return snapshot.GetStatus() == processing
}
