package devicedb

import (
	"crypto/rand"
	"fmt"
	"time"

	"devicedb.example/go/devicedbv1"
)

// Bucket says how concurrent writes of one key are settled, and who may write.
type Bucket = devicedbv1.Bucket

const (
	// Default keeps concurrent values side by side as siblings.
	Default = devicedbv1.Bucket_BUCKET_DEFAULT
	// LWW keeps the value with the newest timestamp.
	LWW = devicedbv1.Bucket_BUCKET_LWW
	// Cloud is as Default; relays only read it.
	Cloud = devicedbv1.Bucket_BUCKET_CLOUD
	// Local is a relay's own: the cluster refuses it.
	Local = devicedbv1.Bucket_BUCKET_LOCAL
)

// Option changes one thing about a call. One that does not belong to the call is refused with ErrInvalidArgument.
type Option struct {
	name  string
	apply func(*settings)
}

type settings struct {
	bucket         Bucket
	consistency    devicedbv1.Consistency
	context        []byte
	timestampMs    *uint64
	requestID      []byte
	after          []byte
	limit          uint64
	keysOnly       bool
	uuid           string
	wait, fresh    bool
	waitTimeout    time.Duration
	onSnapshot     func(*devicedbv1.Snapshot)
	onBytes        func(received, total uint64)
	requestIDGiven bool
}

// InBucket reads or writes another bucket than Default.
func InBucket(bucket Bucket) Option {
	return Option{"InBucket", func(s *settings) { s.bucket = bucket }}
}

// Stale lets a read return whatever the contacted node holds: fast, and possibly old.
func Stale() Option {
	return Option{"Stale", func(s *settings) { s.consistency = devicedbv1.Consistency_CONSISTENCY_STALE }}
}

// WithContext is the context of the read that a write follows from; values not seen by it stay as siblings. Without it a write overwrites all. Not used
// in LWW.
func WithContext(context []byte) Option {
	return Option{"WithContext", func(s *settings) { s.context = append([]byte{}, context...) }}
}

// WithTimestampMs is for LWW: milliseconds since 1970. Without it a write is made newer than what stands.
func WithTimestampMs(ms uint64) Option {
	return Option{"WithTimestampMs", func(s *settings) { s.timestampMs = &ms }}
}

// WithRequestID repeats a write: the 16 bytes of an Error with ErrUnknownOutcome. Without it new ones are drawn.
func WithRequestID(id []byte) Option {
	return Option{"WithRequestID", func(s *settings) { s.requestID, s.requestIDGiven = id, true }}
}

// After scans only keys behind this one.
func After(key []byte) Option { return Option{"After", func(s *settings) { s.after = key }} }

// Limit scans at most so many keys; 0 is all.
func Limit(keys uint64) Option { return Option{"Limit", func(s *settings) { s.limit = keys }} }

// KeysOnly leaves values out of a scan.
func KeysOnly() Option { return Option{"KeysOnly", func(s *settings) { s.keysOnly = true }} }

// WithUUID names a snapshot; the same uuid is the same snapshot, so repeating Create with it is safe.
func WithUUID(uuid string) Option { return Option{"WithUUID", func(s *settings) { s.uuid = uuid }} }

// Wait lets Create return when no part is being written any more.
func Wait() Option { return Option{"Wait", func(s *settings) { s.wait = true }} }

// WaitTimeout is how long Create waits at most; an hour without it. The snapshot goes on without us.
func WaitTimeout(most time.Duration) Option {
	return Option{"WaitTimeout", func(s *settings) { s.waitTimeout = most }}
}

// OnSnapshot is called by Create with the snapshot at every look.
func OnSnapshot(look func(*devicedbv1.Snapshot)) Option {
	return Option{"OnSnapshot", func(s *settings) { s.onSnapshot = look }}
}

// OnBytes is called by Download with the bytes that are here and the bytes of the whole.
func OnBytes(progress func(received, total uint64)) Option {
	return Option{"OnBytes", func(s *settings) { s.onBytes = progress }}
}

// Afresh begins a download anew, whatever an earlier one left.
func Afresh() Option { return Option{"Afresh", func(s *settings) { s.fresh = true }} }

func settle(call string, options []Option, allowed ...string) (*settings, error) {
	s := &settings{bucket: Default, consistency: devicedbv1.Consistency_CONSISTENCY_LINEARIZABLE, waitTimeout: time.Hour}
next:
	for _, option := range options {
		for _, name := range allowed {
			if option.name == name {
				option.apply(s)
				continue next
			}
		}
		return nil, newError(ErrInvalidArgument, "%s has no option %q", call, option.name)
	}
	if s.requestIDGiven && len(s.requestID) != 16 {
		return nil, newError(ErrInvalidArgument, "%s: the request id has %d bytes and not 16", call, len(s.requestID))
	}
	if !s.requestIDGiven {
		s.requestID = drawID()
	}
	return s, nil
}

// drawID makes 16 random bytes that are also a random uuid (RFC 9562, version 4).
func drawID() []byte {
	id := make([]byte, 16)
	rand.Read(id) //nolint:errcheck // crypto/rand.Read never returns an error; it ends the program instead.
	id[6], id[8] = id[6]&0x0f|0x40, id[8]&0x3f|0x80
	return id
}

func uuidText(id []byte) string {
	return fmt.Sprintf("%x-%x-%x-%x-%x", id[0:4], id[4:6], id[6:8], id[8:10], id[10:16])
}

func parseUUID(text string) ([]byte, error) {
	var id []byte
	if n, err := fmt.Sscanf(text, "%x", &id); len(text) == 32 && n == 1 && err == nil && len(id) == 16 {
		return id, nil
	}
	if len(text) == 36 && text[8] == '-' && text[13] == '-' && text[18] == '-' && text[23] == '-' {
		plain := text[:8] + text[9:13] + text[14:18] + text[19:23] + text[24:]
		if id, err := parseUUID(plain); err == nil {
			return id, nil
		}
	}
	return nil, newError(ErrInvalidArgument, "%q is not a uuid, as in 19a7e40e-adcc-4cc2-87a7-ae599272b050", text)
}
