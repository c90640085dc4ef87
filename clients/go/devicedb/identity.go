package devicedb

import (
	"context"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc/metadata"

	"devicedb.example/go/devicedbv1"
)

// Which cluster calls are for is asked of all endpoints at once before the first call where there are several, and said with every call from then on.
//
//   - Endpoints of two clusters, or of one cluster that was restored apart, are refused by name before anything is asked of any of them.
//   - Who does not answer in time is left out. If it is a node of another cluster, it refuses the call itself, since the call says which one it means.
//   - A node that belongs to no cluster yet, or is too old to say, is left out as well. Where none can say, no call says anything.
const (
	clusterHeader      = "devicedb-cluster-id"
	clusterEnvironment = "DDBCTL_CLUSTER_ID"
	// answerWithin is how long an endpoint has to say who it is, so that one that is stopped does not hold up the first call.
	answerWithin = time.Second
)

// identified is what an endpoint said of itself.
type identified struct {
	endpoint string
	identity *devicedbv1.GetIdentityResponse
}

// pinned is the cluster that the caller or the environment names; empty where none does.
func pinned(option string) (string, error) {
	name, given := option, option != ""
	if !given {
		name, given = os.LookupEnv(clusterEnvironment)
	}
	if !given {
		return "", nil
	}
	id, err := parseUUID(name)
	if err != nil {
		return "", newError(ErrInvalidArgument, "%q is not the id of a cluster, as in 5f1c8a9e-0b1d-4a53-9a29-6d4a3f5f0c11", name)
	}
	return uuidText(id), nil
}

// compare is the cluster that the endpoints which answered belong to; empty while they belong to none.
func compare(what string, said []identified) (string, error) {
	cluster, told := same(said, "cluster", (*devicedbv1.GetIdentityResponse).GetClusterId)
	if told != "" {
		return "", otherCluster(said, "cannot %s: the endpoints belong to different clusters: %s: name the nodes of one of them, or say which one you mean "+
			"with Options.ClusterID", what, told)
	}
	if _, told := same(said, "lineage", (*devicedbv1.GetIdentityResponse).GetLineage); told != "" {
		return "", otherCluster(said, "cannot %s: the endpoints are of two histories of cluster %s: it was restored beside itself: %s: name the nodes of one "+
			"of them", what, cluster, told)
	}
	return cluster, nil
}

func otherCluster(said []identified, format string, args ...any) error {
	e := newError(ErrOtherCluster, format, args...)
	var names []string
	for _, one := range said {
		names = append(names, one.endpoint)
	}
	e.Endpoint = strings.Join(names, ",")
	return e
}

// same is what all say that say anything or, where they differ, who says what.
func same(said []identified, what string, of func(*devicedbv1.GetIdentityResponse) string) (first, told string) {
	var all []string
	differ := false
	for _, one := range said {
		name := of(one.identity)
		if name == "" {
			continue
		}
		if first == "" {
			first = name
		}
		differ = differ || name != first
		all = append(all, fmt.Sprintf("%s to %s %s", one.endpoint, what, name))
	}
	if differ {
		return first, strings.Join(all, ", ")
	}
	return first, ""
}

// identify finds out which cluster the endpoints belong to, unless that is known.
func (c *Client) identify(ctx context.Context, what string, patience time.Duration, patient bool) error {
	c.mu.Lock()
	settled := c.settled
	c.mu.Unlock()
	if settled {
		return nil
	}
	// The endpoints together are as one: whoever answers speaks for all that do not.
	tries := begin(1, 0, time.Now(), patience)
	tries.patient = patient
	f := c.read("%s", what)
	for {
		next, ok := tries.next(time.Now())
		if !ok || !sleep(ctx, next.after) {
			return c.ended(ctx, f)
		}
		said, tooOld, hopeless := c.askAll(ctx, f, min(next.within, answerWithin))
		if len(said)+tooOld > 0 {
			cluster, err := compare(what, said)
			if err != nil {
				return err
			}
			c.mu.Lock()
			c.cluster, c.settled = cluster, cluster != "" || len(said) == 0
			c.mu.Unlock()
			return nil
		}
		if hopeless || c.isClosed() || ctx.Err() != nil {
			return c.ended(ctx, f)
		}
	}
}

// askAll asks every endpoint at the same time. hopeless is when one has refused to be asked for good.
func (c *Client) askAll(ctx context.Context, f *faults, within time.Duration) (said []identified, tooOld int, hopeless bool) {
	asked, cancel := context.WithTimeout(c.named(ctx), within)
	defer cancel()
	answers, failures := make([]*devicedbv1.GetIdentityResponse, len(c.nodes)), make([]error, len(c.nodes))
	var wait sync.WaitGroup
	for i, n := range c.nodes {
		wait.Go(func() { answers[i], failures[i] = n.cluster.GetIdentity(asked, &devicedbv1.GetIdentityRequest{}) })
	}
	wait.Wait()
	for i, err := range failures {
		if err == nil {
			said = append(said, identified{c.endpoints[i], answers[i]})
			c.nodes[i].prove(true)
			continue
		}
		failed := faultOf(err)
		if failed.kind == ErrUnsupported {
			tooOld++
			c.nodes[i].prove(true)
			continue
		}
		f.add(i, failed)
		hopeless = hopeless || !failed.again
	}
	return said, tooOld, hopeless
}

// meaning says with a call which cluster it is for, and who makes it.
func (c *Client) meaning(ctx context.Context) context.Context {
	ctx = c.named(ctx)
	c.mu.Lock()
	cluster := c.cluster
	c.mu.Unlock()
	if cluster == "" {
		return ctx
	}
	return metadata.AppendToOutgoingContext(ctx, clusterHeader, cluster)
}
