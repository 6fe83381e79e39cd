package peer

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"svcproxy/model"
	"svcproxy/test/world"
)

// stickyAskers are those that are no endpoints, whose answers come back by the node, and that come with the same
// address everywhere.
var stickyAskers = []string{"pod-3", "host-1", "host-2"}

// sticky is the kind of probes of session affinity, over all of a Service's addresses.
const sticky = "sticky"

// How many endpoints a sticky client got.
const oneEndpoint, moreEndpoints = "one endpoint", "more endpoints"

// stick tells how a node's proxy treats a client of a Service with session affinity: whether all its
// connections, to any of the Service's addresses, go to one endpoint, whichever that is, and whether it is
// masqueraded on each of the ways. The connections come one after another, as two at once may find two endpoints.
func (n *node) stick(number int, from string, p model.Protocol, f model.Family) (observation, error) {
	var words []string
	endpoints := map[netip.AddrPort]bool{}
	for _, way := range []struct {
		kind string
		to   netip.AddrPort
	}{
		{"cluster", netip.AddrPortFrom(clusterIP(f, number), servicePort)},
		{"external", netip.AddrPortFrom(externalIP(f, number), servicePort)},
		{"balancer", netip.AddrPortFrom(balancerIP(f, number), servicePort)},
		{"node", netip.AddrPortFrom(world.NodeAddr(f), nodePort(number))},
	} {
		for range firstLook {
			r, err := n.Place(from).Ask(world.Question{Protocol: p, To: way.to})
			if err != nil {
				return nil, fmt.Errorf("%s, %s from %s: %w", n.name, way.to, from, err)
			}
			word := r.Verdict.String()
			if r.Verdict == world.Answered {
				endpoints[r.Endpoint] = true
				word = "kept"
				if slices.Contains(n.Own(), r.Source.Addr()) {
					word = "masqueraded"
				}
			}
			if word = way.kind + " " + word; !slices.Contains(words, word) {
				words = append(words, word)
			}
		}
	}
	if len(endpoints) == 1 {
		words = append(words, oneEndpoint)
	} else {
		words = append(words, moreEndpoints)
	}
	return observation{strings.Join(words, ", "): true}, nil
}
