package plan

import (
	"fmt"
	"math"
	"net/netip"
	"slices"
	"strings"
	"time"

	"svcproxy/model"
)

// Packet is the first packet of a connection, as it reaches the node or leaves a process there.
type Packet struct {
	Protocol model.Protocol
	Source   netip.Addr
	// Interface is the name of the interface by which it came, empty for the node's own packets.
	Interface string
	Dest      netip.AddrPort
	// Host are the node's own addresses, loopback ones apart.
	Host []netip.Addr
}

// Own tells whether an address is the node's own.
func (p Packet) Own(a netip.Addr) bool { return a.IsLoopback() || slices.Contains(p.Host, a) }

// Ends tells whether the packet's way ends on the node where it is sent to an address: one that came by an
// interface is then handed to a process there and never leaves, which is where sources are replaced. The node's
// own packets leave by the loopback interface.
func (p Packet) Ends(to netip.Addr) bool { return p.Interface != "" && p.Own(to) }

// Verdict is what becomes of a packet.
type Verdict uint8

const (
	// Pass leaves the packet as it is: it is for no Service.
	Pass Verdict = iota
	// Translate gives it the address of an endpoint.
	Translate
	// Refuse drops it and tells its sender at once.
	Refuse
	// Discard drops it silently.
	Discard
)

// String returns the verdict in lower case.
func (v Verdict) String() string {
	if names := []string{"pass", "translate", "refuse", "discard"}; int(v) < len(names) {
		return names[v]
	}
	return "unknown"
}

// Outcome is everything that can become of a packet.
type Outcome struct {
	Verdict Verdict
	// Targets are the endpoints that a client without session affinity may get, in order, each once. It is
	// empty unless Verdict is Translate.
	Targets []Target
	// Affinity is how long the client then stays with its endpoint, 0 if it does not.
	Affinity time.Duration
	// Why says in words what led there; it does not count for equality.
	Why string
	// Rules are the rules that the packet met, if there are any, in their backend's words; they don't count
	// for equality.
	Rules []string
}

// Target is an endpoint that a packet may go to.
type Target struct {
	Endpoint    netip.AddrPort
	Probability float64
	// Masquerade says that the packet's source is replaced by an address of the node. It is not where the way
	// of the packet Ends on the node, whatever its Route says.
	Masquerade bool
}

// probabilityTolerance is by how much two probabilities may differ that mean the same: iptables keeps them
// in 31 bits, and multiplies them along a chain.
const probabilityTolerance = 1e-5

// Equal tells whether the same can become of a packet.
func (o Outcome) Equal(p Outcome) bool {
	return o.Verdict == p.Verdict && o.Affinity == p.Affinity && slices.EqualFunc(o.Targets, p.Targets, func(a, b Target) bool {
		return a.Endpoint == b.Endpoint && a.Masquerade == b.Masquerade && math.Abs(a.Probability-b.Probability) < probabilityTolerance
	})
}

// String returns the outcome in one line.
func (o Outcome) String() string {
	words := []string{o.Verdict.String()}
	for _, t := range o.Targets {
		word := fmt.Sprintf("%s %.4f", t.Endpoint, t.Probability)
		if t.Masquerade {
			word += " masqueraded"
		}
		words = append(words, word)
	}
	if o.Affinity != 0 {
		words = append(words, "affinity "+o.Affinity.String())
	}
	if o.Why != "" {
		words = append(words, "("+o.Why+")")
	}
	return strings.Join(words, ", ")
}

// Trace returns what the plan does with a packet.
func (p *Plan) Trace(packet Packet) Outcome {
	port, frontend := p.find(packet)
	if port == nil {
		return p.unclaimed(packet)
	}
	at := fmt.Sprintf("%s of %s", frontend.Kind, port.Name)
	if frontend.Kind == LoadBalancer && !port.admits(packet) {
		return Outcome{Verdict: Discard, Why: at + ": the source is in none of its ranges"}
	}
	from, route := p.route(packet, frontend)
	at += ", from " + from
	switch route.Action {
	case Reject:
		return Outcome{Verdict: Refuse, Why: at + ": there are no endpoints"}
	case Drop:
		return Outcome{Verdict: Discard, Why: at + ": no endpoints are on this node, and the traffic policy is Local"}
	}
	list := port.List(route)
	o := Outcome{Verdict: Translate, Affinity: port.Affinity, Why: at}
	for _, e := range list {
		masquerade := (route.Masquerade || e.Addr == packet.Source) && !packet.Ends(e.Addr)
		o.Targets = append(o.Targets, Target{e.AddrPort(), 1 / float64(len(list)), masquerade})
	}
	return o
}

// find returns the frontend that a packet is for. An address of its own comes before a node port.
func (p *Plan) find(packet Packet) (*ServicePort, Frontend) {
	keys := []FrontendKey{{packet.Dest.Addr(), packet.Protocol, packet.Dest.Port()}}
	if packet.Own(packet.Dest.Addr()) && p.Config.NodePorts.Match(packet.Dest.Addr()) {
		keys = append(keys, FrontendKey{netip.Addr{}, packet.Protocol, packet.Dest.Port()})
	}
	for _, key := range keys {
		for _, s := range p.Services {
			for i := range s.Ports {
				for _, f := range s.Ports[i].Frontends {
					if f.FrontendKey == key {
						return &s.Ports[i], f
					}
				}
			}
		}
	}
	return nil, Frontend{}
}

// route returns where a packet counts as coming from, and the route of that.
func (p *Plan) route(packet Packet, f Frontend) (from string, r Route) {
	switch {
	case p.Config.Detector.Local(packet.Source, packet.Interface):
		return "a pod", f.Pods
	case packet.Own(packet.Source):
		return "the node", f.Node
	}
	return "outside", f.Outside
}

// admits tells whether a packet's source may use the load balancer.
func (p *ServicePort) admits(packet Packet) bool {
	return len(p.SourceRanges) == 0 || inAny(p.Sources(), packet.Source)
}

// unclaimed returns what becomes of a packet that is for no frontend.
func (p *Plan) unclaimed(packet Packet) Outcome {
	to := packet.Dest.Addr()
	if !p.Config.GuardClusterIPs {
		return Outcome{Why: "no Service"}
	}
	for _, s := range p.Services {
		for _, port := range s.Ports {
			for _, f := range port.Frontends {
				if f.Kind == ClusterIP && f.Addr == to {
					return Outcome{Verdict: Refuse, Why: "a ClusterIP of " + s.Name.String() + ", but none of its ports"}
				}
			}
		}
	}
	if slices.ContainsFunc(p.Config.ServiceCIDRs, func(r netip.Prefix) bool { return r.Contains(to) }) {
		return Outcome{Verdict: Discard, Why: "an address of a Service range that no Service has"}
	}
	return Outcome{Why: "no Service"}
}
