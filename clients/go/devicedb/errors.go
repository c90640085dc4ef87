package devicedb

import (
	"fmt"
	"strings"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Kind says what the caller can do next. Kinds are errors, for errors.Is: errors.Is(err, devicedb.ErrNotFound).
type Kind int

const (
	// ErrInvalidArgument: mend the request; asking again gives the same answer.
	ErrInvalidArgument Kind = iota + 1
	// ErrNotFound: what was named does not exist.
	ErrNotFound
	// ErrConflict: the state does not allow it; look, then decide.
	ErrConflict
	// ErrUnavailable: no node could serve it in time. It had no effect, or none that matters (a read, a download that can go on); try later.
	ErrUnavailable
	// ErrUnknownOutcome: it may have had its effect. Repeat it with the same Error.RequestID: then it has its effect once.
	ErrUnknownOutcome
	// ErrExhausted: it had no effect, since something is full; slow down.
	ErrExhausted
	// ErrCorrupt: bytes are not what was written; fetch them again, restore, or replace.
	ErrCorrupt
	// ErrNotPermitted: the caller may not do this, the node is not believed, or what stands before the cluster does not let it through. It had no effect.
	ErrNotPermitted
	// ErrUnsupported: this server does not know the call; it is older, or it is no DeviceDB.
	ErrUnsupported
	// ErrLocalFile: a file or disk of this machine cannot be used.
	ErrLocalFile
	// ErrClosed: the client was closed before, or during the call.
	ErrClosed
	// ErrFailed: it was understood and did not work; the text says why.
	ErrFailed
	// ErrOtherCluster: the endpoints are not all of one cluster, or not of the one that was named. It had no effect; mend the endpoints or the id.
	ErrOtherCluster
	// ErrUnauthenticated: the cluster does not know who asks; there is no certificate or token, or it is not believed. It is ErrNotPermitted too.
	ErrUnauthenticated
)

var kindNames = [...]string{"", "InvalidArgument", "NotFound", "Conflict", "Unavailable", "UnknownOutcome", "Exhausted", "Corrupt", "NotPermitted",
	"Unsupported", "LocalFile", "Closed", "Failed", "OtherCluster", "Unauthenticated"}

// Error is the kind's name.
func (k Kind) Error() string { return kindNames[k] }

// Is tells errors.Is which kinds are also another.
func (k Kind) Is(target error) bool { return k == ErrUnauthenticated && target == ErrNotPermitted }

// Error is what every call returns when it does not work. It is its Kind for errors.Is, and its cause: context.Canceled, an os error.
type Error struct {
	Kind Kind
	// Message is one line: what, where, and what to do.
	Message string
	// Endpoint is who said so, as host:port; several, with commas, when nobody gave an answer.
	Endpoint string
	// RequestID repeats a write with ErrUnknownOutcome: 16 bytes. Empty where repeating the call as it was is safe.
	RequestID []byte
	// Partial is the file that holds what a download has so far; empty if there is none.
	Partial string
	cause   error
}

// Error is the message.
func (e *Error) Error() string { return e.Message }

// Unwrap makes errors.Is see the kind and the cause.
func (e *Error) Unwrap() []error {
	if e.cause == nil {
		return []error{e.Kind}
	}
	return []error{e.Kind, e.cause}
}

func newError(kind Kind, format string, args ...any) *Error {
	return &Error{Kind: kind, Message: strings.Join(strings.Fields(fmt.Sprintf(format, args...)), " ")}
}

// because names what was behind it.
func (e *Error) because(cause error) *Error {
	e.cause = cause
	return e
}

// rule is what an answer without success means: the error that it ends as, and whether to ask again.
type rule struct {
	kind                  Kind
	again, slower, unsure bool
}

const domain = "devicedb"

var (
	unsure  = rule{kind: ErrUnavailable, again: true, unsure: true}
	notSent = rule{kind: ErrUnavailable, again: true}
	// The other side is not believed, or does not speak TLS: nothing was asked, and another endpoint may do.
	notTrusted = rule{kind: ErrNotPermitted, again: true}
)

// A server of ours says its reason in google.rpc.ErrorInfo.
var reasons = map[string]rule{
	"INVALID":         {kind: ErrInvalidArgument},
	"NOT_FOUND":       {kind: ErrNotFound},
	"CONFLICT":        {kind: ErrConflict},
	"UNAVAILABLE":     {kind: ErrUnavailable, again: true},
	"UNKNOWN_OUTCOME": unsure,
	"EXHAUSTED":       {kind: ErrExhausted, again: true, slower: true},
	"CORRUPT":         {kind: ErrCorrupt},
	"OTHER_CLUSTER":   {kind: ErrOtherCluster},
}

// A proxy, or another server, says only a code. A connection that breaks says nothing of its own, and then the request may have had its effect: a proxy's
// 502 comes as Unavailable, and a reset stream as Internal or Canceled.
var rules = map[codes.Code]rule{
	codes.InvalidArgument:    {kind: ErrInvalidArgument},
	codes.OutOfRange:         {kind: ErrInvalidArgument},
	codes.NotFound:           {kind: ErrNotFound},
	codes.AlreadyExists:      {kind: ErrConflict},
	codes.FailedPrecondition: {kind: ErrConflict},
	codes.Aborted:            {kind: ErrConflict},
	codes.PermissionDenied:   {kind: ErrNotPermitted},
	codes.Unauthenticated:    {kind: ErrUnauthenticated},
	codes.ResourceExhausted:  {kind: ErrExhausted, again: true, slower: true},
	codes.Unimplemented:      {kind: ErrUnsupported},
	codes.DataLoss:           {kind: ErrCorrupt},
	codes.Unavailable:        unsure,
	codes.Internal:           unsure,
	codes.Canceled:           unsure,
	codes.Unknown:            unsure,
	codes.DeadlineExceeded:   unsure,
}

// fault is one attempt that was not answered with success.
type fault struct {
	rule
	message string
	rest    time.Duration // How long to wait at least before the server is asked again.
}

func (f *fault) Error() string { return f.message }

func late(seconds float64) *fault {
	return &fault{rule: unsure, message: fmt.Sprintf("no answer within %.1f s", seconds)}
}

// notConnected: the connection was not made, so nothing was asked.
func notConnected(why string) *fault { return &fault{rule: notSent, message: why} }

// noTime: it was its turn, and too late to ask.
const noTime = "no time was left to ask"

func cutShort() *fault { return &fault{rule: unsure, message: "the stream ended before its end"} }

// neverConnected is how grpc-go says that it had no connection, so that nothing was sent.
const neverConnected = `connection error: desc = "transport: Error while dialing: `

func faultOf(err error) *fault {
	said, _ := status.FromError(err)
	var ours *rule
	var rest time.Duration
	for _, detail := range said.Details() {
		switch detail := detail.(type) {
		case *errdetails.ErrorInfo:
			if r, ok := reasons[detail.GetReason()]; ok && detail.GetDomain() == domain {
				ours = &r
			}
		case *errdetails.RetryInfo:
			rest = detail.GetRetryDelay().AsDuration()
		}
	}
	if ours != nil {
		return &fault{*ours, said.Message(), rest}
	}
	message := said.Message()
	if said.Code() == codes.Unavailable {
		if why := distrust(message); why != "" {
			return &fault{rule: notTrusted, message: why}
		}
		if _, why, found := strings.Cut(message, neverConnected); found {
			return notConnected(strings.TrimSuffix(why, `"`))
		}
		if strings.Contains(message, "name resolver error") {
			return notConnected(message)
		}
	}
	if said.Code() == codes.DeadlineExceeded {
		message = "no answer in time"
	}
	if message == "" {
		message = said.Code().String()
	}
	r, ok := rules[said.Code()]
	if !ok {
		r = unsure
	}
	return &fault{rule: r, message: message}
}

// faults are the last fault of each endpoint of one call, and what they leave unsure.
type faults struct {
	what      string
	endpoints []string
	write     bool
	requestID []byte
	order     []int
	last      map[int]*fault
	unsure    bool
}

func (c *Client) read(format string, args ...any) *faults {
	return &faults{what: fmt.Sprintf(format, args...), endpoints: c.endpoints, last: map[int]*fault{}}
}

func (c *Client) write(requestID []byte, format string, args ...any) *faults {
	f := c.read(format, args...)
	f.write, f.requestID = true, requestID
	return f
}

func (f *faults) add(endpoint int, one *fault) {
	if one.message == noTime && f.last[endpoint] != nil {
		return // What it said before says more.
	}
	f.unsure = f.unsure || one.unsure
	for i, at := range f.order {
		if at == endpoint {
			f.order = append(f.order[:i:i], f.order[i+1:]...)
			break
		}
	}
	f.order = append(f.order, endpoint)
	f.last[endpoint] = one
}

// doneBefore is for what makes something vanish: an earlier attempt may have done it, and now nothing is there.
func (f *faults) doneBefore() bool {
	return f.unsure && len(f.order) > 0 && f.last[f.order[len(f.order)-1]].kind == ErrNotFound
}

// error: a final answer speaks for itself; otherwise every endpoint has its say.
func (f *faults) error() *Error {
	if len(f.order) == 0 {
		e := newError(ErrUnavailable, "cannot %s: there was no time to ask: allow a longer timeout", f.what)
		e.Endpoint = strings.Join(f.endpoints, ",")
		return e
	}
	at := f.order[len(f.order)-1]
	if final := f.last[at]; final.kind != ErrUnavailable {
		tail := ""
		if f.unsure && f.write {
			tail = ": an earlier attempt may have taken effect"
		}
		e := newError(final.kind, "cannot %s: %s: %s%s", f.what, final.message, f.endpoints[at], tail)
		e.Endpoint = f.endpoints[at]
		return e
	}
	var told, names []string
	for _, at := range f.order {
		told = append(told, fmt.Sprintf("%s (%s)", f.endpoints[at], f.last[at].message))
		names = append(names, f.endpoints[at])
	}
	all := strings.Join(told, ", ")
	var e *Error
	switch {
	case f.unsure && f.write && len(f.requestID) > 0:
		e = newError(ErrUnknownOutcome, "cannot %s: %s: it may have taken effect; repeat it with the RequestID of this error", f.what, all)
		e.RequestID = f.requestID
	case f.unsure && f.write:
		e = newError(ErrUnknownOutcome, "cannot %s: %s: it may have taken effect; repeating it is safe", f.what, all)
	default:
		e = newError(ErrUnavailable, "cannot %s: %s: see that a node runs there and can reach the others", f.what, all)
	}
	e.Endpoint = strings.Join(names, ",")
	return e
}
