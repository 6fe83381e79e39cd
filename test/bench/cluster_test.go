package bench

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strconv"
	"time"

	"svcproxy/model"
	"svcproxy/plan"
	"svcproxy/proxier"
)

// maxEndpoints is the most endpoints of a Service in a run that draws their number.
const maxEndpoints = 250

// size is how large a cluster is.
type size struct {
	services int
	// endpoints of each Service, or -1: drawn from 0 to maxEndpoints for each.
	endpoints int
	// mixed gives Services of every class, in turn, see classes.
	mixed bool
}

// fixed tells whether every Service has the same number of endpoints.
func (s size) fixed() bool { return s.endpoints >= 0 }

// counts is the number of endpoints as a text.
func (s size) counts() string {
	if s.fixed() {
		return fmt.Sprint(s.endpoints)
	}
	return fmt.Sprintf("0–%d", maxEndpoints)
}

func (s size) String() string {
	if s.mixed {
		return fmt.Sprintf("%d Services of all classes × %s endpoints", s.services, s.counts())
	}
	return fmt.Sprintf("%d Services × %s endpoints", s.services, s.counts())
}

// cluster holds the Services of a generated cluster: one port and one slice each, no two with an endpoint
// in common. The same seed gives the same cluster.
type cluster struct {
	random   *rand.Rand
	services []*model.Service
	slices   []*model.Slice
	pods     uint32
}

func newCluster(s size) *cluster {
	c := &cluster{random: rand.New(rand.NewPCG(1, uint64(s.services)))}
	for i := range s.services {
		n := s.endpoints
		if !s.fixed() {
			n = c.random.IntN(maxEndpoints + 1)
		}
		name := model.ServiceName{Namespace: fmt.Sprintf("namespace-%d", i%50), Name: fmt.Sprintf("service-%d", i)}
		c.services = append(c.services, &model.Service{
			Name:       name,
			Created:    time.Unix(int64(i), 0),
			ClusterIPs: []netip.Addr{addrIn("10.96.0.0", uint32(i+1))},
			Ports:      []model.ServicePort{{Name: "http", Protocol: model.TCP, Port: 80}},
		})
		if s.mixed {
			classes[i%len(classes)](c.services[i], uint32(i))
		}
		slice := &model.Slice{
			Name:    model.SliceName{Namespace: name.Namespace, Name: name.Name + "-1"},
			Service: name,
			Family:  model.IPv4,
			Ports:   []model.SlicePort{{Name: "http", Protocol: model.TCP, Port: 8080}},
		}
		for j := range n {
			e := c.newEndpoint()
			if here := "node-0"; s.mixed && (j == 0) != (e.NodeName == here) {
				// One endpoint of each is on this node, for the policy Local.
				e.NodeName = map[bool]string{true: here, false: "node-1"}[j == 0]
			}
			slice.Endpoints = append(slice.Endpoints, e)
		}
		c.slices = append(c.slices, slice)
	}
	return c
}

// classes are the kinds of Services that a mixed cluster has. Each takes a Service with a ClusterIP and its
// number.
var classes = []func(s *model.Service, i uint32){
	func(*model.Service, uint32) {},
	func(s *model.Service, i uint32) { s.Ports[0].NodePort = 30000 + uint16(i/classCount) },
	func(s *model.Service, i uint32) {
		s.ExternalLocal, s.HealthCheckNodePort = true, 40000+uint16(i/classCount)
		s.Ports[0].NodePort = 50000 + uint16(i/classCount)
		s.LoadBalancerIPs = []netip.Addr{addrIn("172.20.0.0", i)}
	},
	func(s *model.Service, _ uint32) { s.Affinity = 3 * time.Hour },
	func(s *model.Service, i uint32) {
		s.LoadBalancerIPs = []netip.Addr{addrIn("172.20.0.0", i)}
		s.SourceRanges = []netip.Prefix{netip.PrefixFrom(addrIn("192.0.0.0", i<<8), 24), netip.MustParsePrefix("198.51.100.0/24")}
	},
	func(s *model.Service, i uint32) { s.ExternalIPs = []netip.Addr{addrIn("172.24.0.0", i)} },
	func(s *model.Service, _ uint32) { s.InternalLocal = true },
}

// classCount is len(classes).
const classCount = 7

// newEndpoint returns an endpoint at an address that no other has. Addresses are in no order, as those of
// pods that come and go are not.
func (c *cluster) newEndpoint() model.Endpoint {
	c.pods++
	const spread = 2654435761 // odd, so that no two numbers below 2²³ meet
	return model.Endpoint{
		Addr: addrIn("10.128.0.0", c.pods*spread&(1<<23-1)), Ready: true, Serving: true,
		NodeName: "node-" + strconv.Itoa(int(c.pods%nodes)),
	}
}

// nodes is the number of nodes that the endpoints are spread over, a hundred pods on each with 10,000
// Services × 10 endpoints. The one that is measured is the first.
const nodes = 1000

func addrIn(base string, n uint32) netip.Addr {
	b := netip.MustParseAddr(base).As4()
	return netip.AddrFrom4([4]byte(binary.BigEndian.AppendUint32(nil, binary.BigEndian.Uint32(b[:])+n)))
}

// settings are those of every run.
func settings() proxier.Settings {
	return proxier.Settings{ClusterCIDRs: []netip.Prefix{netip.MustParsePrefix("10.128.0.0/9")}}
}

// config is that of every run's plan.
func config() plan.Config {
	return settings().Config(model.IPv4, model.Node{Name: "node-0"}, []netip.Prefix{netip.MustParsePrefix("10.96.0.0/12")})
}

// objects returns all of it.
func (c *cluster) objects() proxier.Objects {
	o := proxier.NewObjects()
	for _, s := range c.services {
		o.Services[s.Name] = s
	}
	for _, s := range c.slices {
		o.Slices[s.Name] = s
	}
	return *o
}

// inputs returns all of it as a Planner takes it.
func (c *cluster) inputs() []plan.Input {
	var in []plan.Input
	for i, s := range c.services {
		in = append(in, plan.Input{Name: s.Name, Service: s, Slices: []*model.Slice{c.slices[i]}})
	}
	return in
}

// distinct returns how many numbers of endpoints there are, 0 apart.
func (c *cluster) distinct() int {
	seen := map[int]bool{}
	for _, s := range c.slices {
		if n := len(s.Endpoints); n > 0 {
			seen[n] = true
		}
	}
	return len(seen)
}

// A change replaces the slice of one Service.
type change func(c *cluster) *model.Slice

// replaceEndpoint puts another endpoint in the place of one, as when a pod is replaced.
func replaceEndpoint(c *cluster) *model.Slice {
	for {
		i := c.random.IntN(len(c.slices))
		if n := len(c.slices[i].Endpoints); n > 0 {
			return c.edit(i, c.random.IntN(n), c.newEndpoint())
		}
	}
}

// changeCount adds an endpoint to a Service or takes one away.
func changeCount(c *cluster) *model.Slice {
	i := c.random.IntN(len(c.slices))
	n := len(c.slices[i].Endpoints)
	if n > 0 && c.random.IntN(2) == 0 {
		return c.edit(i, c.random.IntN(n))
	}
	return c.edit(i, -1, c.newEndpoint())
}

// edit takes an endpoint out of a slice, or none with -1, and adds others.
func (c *cluster) edit(i, out int, in ...model.Endpoint) *model.Slice {
	s := *c.slices[i]
	s.Endpoints = nil
	for j, e := range c.slices[i].Endpoints {
		if j != out {
			s.Endpoints = append(s.Endpoints, e)
		}
	}
	s.Endpoints = append(s.Endpoints, in...)
	c.slices[i] = &s
	return &s
}
