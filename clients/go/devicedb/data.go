package devicedb

import (
	"context"
	"iter"

	"google.golang.org/grpc"

	"devicedb.example/go/devicedbv1"
)

// Operation is a step of a batch: a Put or a Delete.
type Operation interface {
	step() *devicedbv1.BatchOperation
}

// Put writes a value in a batch. A nil Context overwrites all; TimestampMs is for LWW, nil is newer than what stands.
type Put struct {
	Key, Value, Context []byte
	TimestampMs         *uint64
}

// Delete deletes a key in a batch; Context and TimestampMs as in Put.
type Delete struct {
	Key, Context []byte
	TimestampMs  *uint64
}

func (p Put) step() *devicedbv1.BatchOperation {
	action := &devicedbv1.BatchOperation_Put{Put: p.Value}
	return &devicedbv1.BatchOperation{Key: p.Key, Action: action, Context: p.Context, TimestampMs: p.TimestampMs}
}

func (d Delete) step() *devicedbv1.BatchOperation {
	action := &devicedbv1.BatchOperation_Delete{Delete: true}
	return &devicedbv1.BatchOperation{Key: d.Key, Action: action, Context: d.Context, TimestampMs: d.TimestampMs}
}

// Get reads one key: its concurrent values as siblings, none where it does not exist, and the context to write with. Options: InBucket, Stale.
func (c *Client) Get(ctx context.Context, site string, key []byte, options ...Option) (*devicedbv1.GetResponse, error) {
	s, err := settle("Get", options, "InBucket", "Stale")
	if err != nil {
		return nil, err
	}
	request := &devicedbv1.GetRequest{Site: site, Bucket: s.bucket, Key: key, Consistency: s.consistency}
	return call(ctx, c, c.read("get %q of site %q", key, site), site, false, func(ctx context.Context, n *node, q *devicedbv1.GetRequest) (*devicedbv1.GetResponse, error) {
		return n.kv.Get(ctx, q)
	}, request)
}

// Put writes one key of 1 to 1024 bytes, with a value of at most 1 MiB. When it returns nil, the write is on disk on a majority of replicas. Options:
// InBucket, WithContext, WithTimestampMs, WithRequestID.
func (c *Client) Put(ctx context.Context, site string, key, value []byte, options ...Option) (*devicedbv1.PutResponse, error) {
	s, err := settle("Put", options, "InBucket", "WithContext", "WithTimestampMs", "WithRequestID")
	if err != nil {
		return nil, err
	}
	request := &devicedbv1.PutRequest{Site: site, Bucket: s.bucket, Key: key, Value: value, Context: s.context, TimestampMs: s.timestampMs, RequestId: s.requestID}
	f := c.write(s.requestID, "put %q of site %q", key, site)
	return call(ctx, c, f, site, false, func(ctx context.Context, n *node, q *devicedbv1.PutRequest) (*devicedbv1.PutResponse, error) {
		return n.kv.Put(ctx, q)
	}, request)
}

// Delete deletes one key. Deleting a key that does not exist is no error. Options: as Put.
func (c *Client) Delete(ctx context.Context, site string, key []byte, options ...Option) (*devicedbv1.DeleteResponse, error) {
	s, err := settle("Delete", options, "InBucket", "WithContext", "WithTimestampMs", "WithRequestID")
	if err != nil {
		return nil, err
	}
	request := &devicedbv1.DeleteRequest{Site: site, Bucket: s.bucket, Key: key, Context: s.context, TimestampMs: s.timestampMs, RequestId: s.requestID}
	f := c.write(s.requestID, "delete %q of site %q", key, site)
	return call(ctx, c, f, site, false, func(ctx context.Context, n *node, q *devicedbv1.DeleteRequest) (*devicedbv1.DeleteResponse, error) {
		return n.kv.Delete(ctx, q)
	}, request)
}

// Batch writes several keys of one site and bucket, all or none: 1 to 4096 steps, at most 4 MiB of keys and values. Options: InBucket, WithRequestID.
func (c *Client) Batch(ctx context.Context, site string, operations []Operation, options ...Option) (*devicedbv1.BatchResponse, error) {
	s, err := settle("Batch", options, "InBucket", "WithRequestID")
	if err != nil {
		return nil, err
	}
	request := &devicedbv1.BatchRequest{Site: site, Bucket: s.bucket, RequestId: s.requestID}
	for _, operation := range operations {
		request.Operations = append(request.Operations, operation.step())
	}
	f := c.write(s.requestID, "write a batch to site %q", site)
	return call(ctx, c, f, site, false, func(ctx context.Context, n *node, q *devicedbv1.BatchRequest) (*devicedbv1.BatchResponse, error) {
		return n.kv.Batch(ctx, q)
	}, request)
}

// Scan goes through the keys with a prefix in key order; an empty prefix is all keys. Pages are linearizable, the scan as a whole is not one instant. An
// error is the last thing that it yields. Options: InBucket, Stale, After, Limit, KeysOnly.
func (c *Client) Scan(ctx context.Context, site string, prefix []byte, options ...Option) iter.Seq2[*devicedbv1.ScanEntry, error] {
	return func(yield func(*devicedbv1.ScanEntry, error) bool) {
		s, err := settle("Scan", options, "InBucket", "Stale", "After", "Limit", "KeysOnly")
		if err != nil {
			yield(nil, err)
			return
		}
		after, left, left0 := s.after, s.limit, false
		request := func() *devicedbv1.ScanRequest {
			return &devicedbv1.ScanRequest{
				Site: site, Bucket: s.bucket, Prefix: prefix, After: after, Limit: left, KeysOnly: s.keysOnly, Consistency: s.consistency,
			}
		}
		take := func(page *devicedbv1.ScanResponse) (bool, bool, error) {
			for _, entry := range page.GetEntries() {
				after = entry.GetKey()
				if s.limit > 0 {
					left--
					left0 = left == 0
				}
				if !yield(entry, nil) || left0 {
					return true, true, nil
				}
			}
			return false, len(page.GetEntries()) > 0, nil
		}
		err = stream(ctx, c, c.read("scan site %q", site), true, func(ctx context.Context, n *node, q *devicedbv1.ScanRequest) (grpc.ServerStreamingClient[devicedbv1.ScanResponse], error) {
			return n.kv.Scan(ctx, q)
		}, request, take)
		if err != nil {
			yield(nil, err)
		}
	}
}
