package devicedb

import (
	"context"

	"devicedb.example/go/devicedbv1"
)

// Overview is the cluster at a glance, with what every node said within a second.
func (c *Client) Overview(ctx context.Context) (*devicedbv1.GetOverviewResponse, error) {
	return call(ctx, c, c.read("look at the cluster"), "", false, func(ctx context.Context, n *node, q *devicedbv1.GetOverviewRequest) (*devicedbv1.GetOverviewResponse, error) {
		return n.cluster.GetOverview(ctx, q)
	}, &devicedbv1.GetOverviewRequest{})
}

// Nodes are the nodes, by id.
func (c *Client) Nodes(ctx context.Context) ([]*devicedbv1.Node, error) {
	return pages(ctx, c, c.read("list the nodes"), func(ctx context.Context, n *node, token string) ([]*devicedbv1.Node, string, error) {
		page, err := n.cluster.ListNodes(ctx, &devicedbv1.ListNodesRequest{PageToken: token})
		return page.GetNodes(), page.GetNextPageToken(), err
	})
}

// Partitions are the partitions and where they are, by number.
func (c *Client) Partitions(ctx context.Context) ([]*devicedbv1.Partition, error) {
	return pages(ctx, c, c.read("list the partitions"), func(ctx context.Context, n *node, token string) ([]*devicedbv1.Partition, string, error) {
		page, err := n.cluster.ListPartitions(ctx, &devicedbv1.ListPartitionsRequest{PageToken: token})
		return page.GetPartitions(), page.GetNextPageToken(), err
	})
}

// Sites of a cluster. A site is a tenant's database; its name has 1 to 255 bytes of UTF-8 without control characters.
type Sites struct{ client *Client }

// Add adds a site. Adding one that exists changes nothing; Created is false then, or when an earlier attempt of this call had its effect.
func (s *Sites) Add(ctx context.Context, site string) (*devicedbv1.AddSiteResponse, error) {
	return call(ctx, s.client, s.client.write(nil, "add site %q", site), "", false, func(ctx context.Context, n *node, q *devicedbv1.AddSiteRequest) (*devicedbv1.AddSiteResponse, error) {
		return n.cluster.AddSite(ctx, q)
	}, &devicedbv1.AddSiteRequest{Site: site})
}

// Remove removes a site and all its data.
func (s *Sites) Remove(ctx context.Context, site string) error {
	return remove(ctx, s.client, s.client.write(nil, "remove site %q", site), func(ctx context.Context, n *node, q *devicedbv1.RemoveSiteRequest) (*devicedbv1.RemoveSiteResponse, error) {
		return n.cluster.RemoveSite(ctx, q)
	}, &devicedbv1.RemoveSiteRequest{Site: site})
}

// List is the sites, by name.
func (s *Sites) List(ctx context.Context) ([]*devicedbv1.Site, error) {
	return pages(ctx, s.client, s.client.read("list the sites"), func(ctx context.Context, n *node, token string) ([]*devicedbv1.Site, string, error) {
		page, err := n.cluster.ListSites(ctx, &devicedbv1.ListSitesRequest{PageToken: token})
		return page.GetSites(), page.GetNextPageToken(), err
	})
}

// Relays of a cluster: edge gateways, each of at most one site. Only their registration is kept so far.
type Relays struct{ client *Client }

// Add registers a relay, with a site or, if that is empty, without. Adding one that exists changes nothing; Created as with sites.
func (r *Relays) Add(ctx context.Context, relay, site string) (*devicedbv1.AddRelayResponse, error) {
	return call(ctx, r.client, r.client.write(nil, "add relay %q", relay), "", false, func(ctx context.Context, n *node, q *devicedbv1.AddRelayRequest) (*devicedbv1.AddRelayResponse, error) {
		return n.cluster.AddRelay(ctx, q)
	}, &devicedbv1.AddRelayRequest{Relay: relay, Site: site})
}

// Remove removes a relay from the registry.
func (r *Relays) Remove(ctx context.Context, relay string) error {
	return remove(ctx, r.client, r.client.write(nil, "remove relay %q", relay), func(ctx context.Context, n *node, q *devicedbv1.RemoveRelayRequest) (*devicedbv1.RemoveRelayResponse, error) {
		return n.cluster.RemoveRelay(ctx, q)
	}, &devicedbv1.RemoveRelayRequest{Relay: relay})
}

// Move gives a relay to another site or, if that is empty, to none.
func (r *Relays) Move(ctx context.Context, relay, site string) (*devicedbv1.Relay, error) {
	answer, err := call(ctx, r.client, r.client.write(nil, "move relay %q", relay), "", false, func(ctx context.Context, n *node, q *devicedbv1.MoveRelayRequest) (*devicedbv1.MoveRelayResponse, error) {
		return n.cluster.MoveRelay(ctx, q)
	}, &devicedbv1.MoveRelayRequest{Relay: relay, Site: site})
	return answer.GetRelay(), err
}

// List is the relays, by name; of one site if it is not empty.
func (r *Relays) List(ctx context.Context, site string) ([]*devicedbv1.Relay, error) {
	return pages(ctx, r.client, r.client.read("list the relays"), func(ctx context.Context, n *node, token string) ([]*devicedbv1.Relay, string, error) {
		page, err := n.cluster.ListRelays(ctx, &devicedbv1.ListRelaysRequest{PageToken: token, Site: site})
		return page.GetRelays(), page.GetNextPageToken(), err
	})
}
