package devicedb

import (
	"math/rand/v2"
	"time"
)

const (
	roundsRefused = 3
	slowerMax     = 5
	delayMin      = 50 * time.Millisecond
	delayMax      = time.Second
)

// attempts says when and where to try again: a pure schedule over the endpoints, with a deadline that progress moves.
//
//   - Every endpoint is tried once before any is tried again, and gets its share of the time that is left, so that one that hangs cannot eat it all.
//   - From the second round on attempts wait, doubling, with jitter, and at least as long as a server has asked for in the round before.
//   - When no endpoint could ever be connected to, it gives up after roundsRefused rounds: nobody wants to wait ten seconds for "connection refused". A
//     patient schedule goes on until its deadline.
type attempts struct {
	endpoints, first, tried int
	patience                time.Duration
	deadline                time.Time
	patient, connected      bool
	slowed                  int
	rest                    time.Duration // What servers have asked for since the last round began.
}

// attempt: at which endpoint, after which pause, and within which time from its begin.
type attempt struct {
	endpoint      int
	after, within time.Duration
}

func begin(endpoints, first int, now time.Time, patience time.Duration) *attempts {
	return &attempts{endpoints: endpoints, first: first, patience: patience, deadline: now.Add(patience)}
}

// next is false when it is time to give up.
func (a *attempts) next(now time.Time) (attempt, bool) {
	turn := a.tried / a.endpoints
	hopeless := !a.connected && !a.patient && turn >= roundsRefused
	if hopeless || a.slowed >= slowerMax {
		return attempt{}, false
	}
	after := delay(turn)
	if a.tried%a.endpoints == 0 {
		after, a.rest = max(after, a.rest), 0
	}
	left := a.deadline.Sub(now.Add(after))
	if left <= 0 {
		return attempt{}, false
	}
	untried := a.endpoints - a.tried%a.endpoints
	next := attempt{(a.first + a.tried) % a.endpoints, after, left / time.Duration(untried)}
	a.tried++
	return next, true
}

// slower: the server asked to slow down, and to come again after so long.
func (a *attempts) slower(rest time.Duration) {
	a.slowed++
	a.rest = max(a.rest, rest)
}

// progress: something arrived, so the deadline moves. Returns how long the endpoint has for the next thing.
func (a *attempts) progress(now time.Time) time.Duration {
	a.first = (a.first + a.tried) % a.endpoints
	a.tried, a.slowed, a.rest = 0, 0, 0
	a.deadline = now.Add(a.patience)
	return a.patience / time.Duration(a.endpoints)
}

func delay(turn int) time.Duration {
	if turn == 0 {
		return 0
	}
	most := min(delayMin<<min(turn-1, 16), delayMax)
	return most/2 + rand.N(most/2)
}
