package plan

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"svcproxy/model"
)

var (
	nodeAddr    = netip.MustParseAddr("192.168.0.1")
	otherNode   = netip.MustParseAddr("192.168.0.2")
	outsideAddr = netip.MustParseAddr("203.0.113.9")
	localPod    = netip.MustParseAddr("10.244.1.5")
	remotePod   = netip.MustParseAddr("10.244.2.5")
)

// everywhere is a Service with all kinds of frontends.
func everywhere() *model.Service {
	s := service(web, 0, "10.96.0.1")
	s.ExternalIPs = []netip.Addr{netip.MustParseAddr("198.51.100.1")}
	s.LoadBalancerIPs = []netip.Addr{netip.MustParseAddr("198.51.100.2")}
	s.Ports[0].NodePort = 30080
	return s
}

// destinations are where everywhere answers, by the kind of frontend.
var destinations = map[FrontendKind]netip.AddrPort{
	ClusterIP:    netip.MustParseAddrPort("10.96.0.1:80"),
	ExternalIP:   netip.MustParseAddrPort("198.51.100.1:80"),
	LoadBalancer: netip.MustParseAddrPort("198.51.100.2:80"),
	NodePort:     netip.AddrPortFrom(nodeAddr, 30080),
}

// origin is a class of packets.
type origin struct {
	name   string
	source netip.Addr
	iface  string
}

var origins = []origin{
	{"a pod of this node", localPod, "cni0"},
	{"a pod of another node", remotePod, "eth0"},
	{"the endpoint here", netip.MustParseAddr("10.244.1.1"), "cni0"},
	{"the node", nodeAddr, ""},
	{"the node by its pods' address", netip.MustParseAddr("10.244.1.254"), ""},
	{"outside", outsideAddr, "eth0"},
}

func (o origin) packet(to netip.AddrPort) Packet {
	return Packet{Protocol: model.TCP, Source: o.source, Interface: o.iface, Dest: to,
		Host: []netip.Addr{nodeAddr, netip.MustParseAddr("10.244.1.254")}}
}

// onNode is the configuration of node n1 whose pods are detected.
func onNode(d Detector) Config {
	c := here
	c.Detector, c.NodePorts, c.NodeAddrs = d, NodePorts{All: true}, []netip.Addr{nodeAddr}
	return c
}

var (
	anyPod  = Detector{Prefixes: []netip.Prefix{netip.MustParsePrefix("10.244.0.0/16")}}
	ourPods = Detector{Prefixes: []netip.Prefix{netip.MustParsePrefix("10.244.1.0/24")}}
)

// The outcomes that Kubernetes' documentation of virtual IPs and traffic policies names, one by one. The
// words of want are the endpoints taken, "here" or "there", then whether the source is replaced.
func TestExternalTrafficPolicies(t *testing.T) {
	both := []model.Endpoint{on("n1", ready("10.244.1.1")), on("n2", ready("10.244.2.1"))}
	there := both[1:]
	for _, c := range []struct {
		name      string
		detector  Detector
		local     bool
		endpoints []model.Endpoint
		origin    int
		want      string
	}{
		{"Cluster: everybody is masqueraded", anyPod, false, both, 5, "here masqueraded, there masqueraded"},
		{"Cluster: pods too", anyPod, false, both, 0, "here masqueraded, there masqueraded"},
		{"Cluster: the node too", Detector{}, false, both, 3, "here masqueraded, there masqueraded"},
		{"Local: outside keeps its address and gets the endpoint here", anyPod, true, both, 5, "here"},
		{"Local: outside is dropped where no endpoint is here", anyPod, true, there, 5, "discard"},
		{"Local: a pod takes the short cut to all endpoints", anyPod, true, both, 0, "here, there"},
		{"Local: a pod takes it where no endpoint is here", anyPod, true, there, 0, "there"},
		{"Local: ClusterCIDR knows the pods of other nodes", anyPod, true, both, 1, "here, there"},
		{"Local: NodeCIDR does not", ourPods, true, both, 1, "here"},
		{"Local: without a detector a pod is as outside", Detector{}, true, both, 0, "here"},
		{"Local: without a detector a pod is dropped where no endpoint is here", Detector{}, true, there, 0, "discard"},
		{"Local: the node takes the short cut and is masqueraded", anyPod, true, both, 3, "here masqueraded, there masqueraded"},
		{"Local: the node takes it without a detector", Detector{}, true, there, 3, "there masqueraded"},
		{"Local: an address of the node among the pods' counts as a pod", anyPod, true, both, 4, "here, there"},
		{"Local: a connection of an endpoint to itself is masqueraded", anyPod, true, both, 2, "here masqueraded, there"},
		{"Local: pods are known by their interface", Detector{Interface: "cni0"}, true, both, 0, "here, there"},
		{"Local: or by the beginning of it", Detector{Interface: "cn+"}, true, both, 0, "here, there"},
		{"Local: what comes by another interface is outside", Detector{Interface: "cni0"}, true, both, 1, "here"},
		{"Local: the node's own packets come by none", Detector{Interface: "+"}, true, both, 4, "here masqueraded, there masqueraded"},
		{"Local: nobody has endpoints, so everybody is told", anyPod, true, nil, 5, "refuse"},
		{"Cluster: nobody has endpoints, so everybody is told", anyPod, false, nil, 0, "refuse"},
		{"Local: one that terminates here comes before one that is ready elsewhere", anyPod, true,
			[]model.Endpoint{on("n1", terminating("10.244.1.1")), there[0]}, 5, "here"},
		{"Local: but not for pods, who get all that are ready", anyPod, true,
			[]model.Endpoint{on("n1", terminating("10.244.1.1")), there[0]}, 0, "there"},
		{"Local: the last resort elsewhere is no reason to refuse", anyPod, true,
			[]model.Endpoint{on("n2", terminating("10.244.2.1"))}, 5, "discard"},
	} {
		for _, kind := range []FrontendKind{ExternalIP, LoadBalancer, NodePort} {
			t.Run(fmt.Sprintf("%s/%s", kind, c.name), func(t *testing.T) {
				s := everywhere()
				s.ExternalLocal = c.local
				p := Build(onNode(c.detector), []Input{{web, s, []*model.Slice{slice("a", c.endpoints...)}}})
				got := p.Trace(origins[c.origin].packet(destinations[kind]))
				if words := inWords(got); words != c.want {
					t.Errorf("from %s: got %q (%s), want %q", origins[c.origin].name, words, got.Why, c.want)
				}
			})
		}
	}
}

func inWords(o Outcome) string {
	if o.Verdict != Translate {
		return o.Verdict.String()
	}
	words := ""
	for i, target := range o.Targets {
		if i > 0 {
			words += ", "
		}
		words += map[bool]string{true: "here", false: "there"}[ourPods.Prefixes[0].Contains(target.Endpoint.Addr())]
		if target.Masquerade {
			words += " masqueraded"
		}
	}
	return words
}

// situations are the endpoints that a Service can have.
var situations = map[string][]model.Endpoint{
	"none":                           nil,
	"not ready":                      {on("n1", notReady("10.244.1.1")), on("n2", notReady("10.244.2.1"))},
	"ready here":                     {on("n1", ready("10.244.1.1"))},
	"ready elsewhere":                {on("n2", ready("10.244.2.1"))},
	"ready here and elsewhere":       {on("n1", ready("10.244.1.1")), on("n2", ready("10.244.2.1")), on("n2", ready("10.244.2.2"))},
	"terminating here":               {on("n1", terminating("10.244.1.1")), on("n2", notReady("10.244.2.1"))},
	"terminating elsewhere":          {on("n2", terminating("10.244.2.1"))},
	"terminating here, ready there":  {on("n1", terminating("10.244.1.1")), on("n2", ready("10.244.2.1"))},
	"ready here, terminating there":  {on("n1", ready("10.244.1.1")), on("n2", terminating("10.244.2.1"))},
	"two terminating, one here":      {on("n1", terminating("10.244.1.1")), on("n2", terminating("10.244.2.1"))},
	"ready here, hinted elsewhere":   {on("n1", hinted([]string{"n2"}, []string{"z2"}, ready("10.244.1.1"))), on("n2", hinted([]string{"n1"}, []string{"z1"}, ready("10.244.2.1")))},
	"ready there, hinted elsewhere":  {on("n2", hinted(nil, []string{"z1"}, ready("10.244.2.1"))), on("n2", hinted(nil, []string{"z2"}, ready("10.244.2.2")))},
	"on a node that nobody knows":    {ready("10.244.3.1")},
	"of addresses that none may use": {on("n1", ready("127.0.0.1")), on("n1", ready("169.254.1.1"))},
}

// Every policy, for every origin, kind of frontend, way to detect pods and situation of the endpoints.
func TestEveryRouteIsTheDocumentedOne(t *testing.T) {
	detectors := []Detector{{}, anyPod, ourPods, {Interface: "cni0"}, {Interface: "eth+"}}
	verdicts := map[Verdict]int{}
	for situation, endpoints := range situations {
		for n := range 8 {
			for _, d := range detectors {
				s := everywhere()
				s.ExternalLocal, s.InternalLocal = n&1 != 0, n&2 != 0
				c := onNode(d)
				c.MasqueradeAll = n&4 != 0
				inputs := []Input{{web, s, []*model.Slice{slice("a", endpoints...)}}}
				p := Build(c, inputs)
				for _, o := range origins {
					for kind, to := range destinations {
						packet := o.packet(to)
						got, want := p.Trace(packet), reference(c, inputs, packet)
						verdicts[want.Verdict]++
						if !got.Equal(want) {
							t.Errorf("%s, external Local %v, internal Local %v, %+v, masquerade all %v, from %s to %s: got %v, want %v",
								situation, s.ExternalLocal, s.InternalLocal, d, c.MasqueradeAll, o.name, kind, got, want)
						}
					}
				}
			}
		}
	}
	if want := 3; len(verdicts) != want || verdicts[Pass] != 0 {
		t.Errorf("verdicts: got %v, want all but pass", verdicts)
	}
}

// Who claims a frontend in vain must not get a packet of it, whatever the kinds.
func TestClaimsBetweenKinds(t *testing.T) {
	shared := netip.MustParseAddr("10.96.0.1")
	victim, thief := model.ServiceName{Namespace: "default", Name: "victim"}, model.ServiceName{Namespace: "a", Name: "thief"}
	stealBy := map[FrontendKind]func(*model.Service){
		ExternalIP:   func(s *model.Service) { s.ExternalIPs = []netip.Addr{shared} },
		LoadBalancer: func(s *model.Service) { s.LoadBalancerIPs = []netip.Addr{shared} },
	}
	for kind, steal := range stealBy {
		older := service(thief, time.Hour, "10.96.0.2")
		steal(older)
		p := Build(config, []Input{{victim, service(victim, 0, "10.96.0.1"), nil}, {thief, older, nil}})
		if f := p.Services[victim].Ports[0].Frontends; len(f) != 1 || f[0].Kind != ClusterIP {
			t.Errorf("%v: the younger ClusterIP has %+v, want its frontend (CVE-2020-8554)", kind, f)
		}
		lost := p.Services[thief].Ports[0].Lost
		if len(lost) != 1 || lost[0].Frontend.Kind != kind || lost[0].Holder.Service != victim {
			t.Errorf("%v: the older one lost %+v, want the frontend of that kind", kind, lost)
		}
	}
	var inputs []Input
	for i, name := range []model.ServiceName{victim, thief} {
		s := service(name, time.Duration(1-i)*time.Hour, fmt.Sprintf("10.96.0.%d", i+1))
		stealBy[[]FrontendKind{ExternalIP, LoadBalancer}[i]](s)
		s.ClusterIPs[0] = netip.AddrFrom4([4]byte{10, 96, 1, byte(i)})
		s.Ports[0].NodePort = 30080
		inputs = append(inputs, Input{Name: name, Service: s})
	}
	p := Build(config, inputs)
	if n := len(p.Services[victim].Ports[0].Frontends); n != 3 {
		t.Errorf("the older of two has %d frontends, want 3: other kinds are alike", n)
	}
	if n := len(p.Services[thief].Ports[0].Lost); n != 2 {
		t.Errorf("the younger of two lost %d frontends, want 2", n)
	}
}

func TestAnAddressOfSeveralKindsInOneServiceCountsOnce(t *testing.T) {
	s := everywhere()
	s.ExternalIPs = []netip.Addr{s.ClusterIPs[0], s.LoadBalancerIPs[0], s.LoadBalancerIPs[0]}
	port := Build(onNode(anyPod), []Input{{Name: web, Service: s}}).Services[web].Ports[0]
	got := map[string]FrontendKind{}
	for _, f := range port.Frontends {
		got[fmt.Sprint(f.Addr)] = f.Kind
	}
	want := map[string]FrontendKind{"invalid IP": NodePort, "10.96.0.1": ClusterIP, "198.51.100.2": LoadBalancer}
	if fmt.Sprint(got) != fmt.Sprint(want) || len(port.Frontends) != 3 || len(port.Lost) != 0 {
		t.Errorf("got %v and lost %v, want %v: the load balancer's may have source ranges", got, port.Lost, want)
	}
}

func TestTwoPortsOfOneServiceWithOneNodePort(t *testing.T) {
	s := service(web, 0, "10.96.0.1")
	s.Ports = []model.ServicePort{{Name: "b", Protocol: model.TCP, Port: 1, NodePort: 30080}, {Name: "a", Protocol: model.TCP, Port: 2, NodePort: 30080},
		{Name: "c", Protocol: model.UDP, Port: 1, NodePort: 30080}}
	ports := Build(onNode(anyPod), []Input{{Name: web, Service: s}}).Services[web].Ports
	for i, want := range []int{2, 1, 2} {
		if len(ports[i].Frontends) != want {
			t.Errorf("%v has %+v, want %d frontends", ports[i].Name, ports[i].Frontends, want)
		}
	}
}

func TestSourceRanges(t *testing.T) {
	lb := destinations[LoadBalancer]
	for _, c := range []struct {
		name   string
		ranges []string
		want   []string
		own    bool
	}{
		{"none", nil, nil, false},
		{"in order, without those inside others", []string{"203.0.113.128/25", "10.0.0.0/8", "203.0.113.0/24", "10.0.0.0/8"}, []string{"10.0.0.0/8", "203.0.113.0/24"}, false},
		{"host bits don't count", []string{"203.0.113.77/24"}, []string{"203.0.113.0/24"}, false},
		{"those of the other family don't count", []string{"2001:db8::/32"}, nil, false},
		{"one that holds everything means none", []string{"10.0.0.0/8", "0.0.0.0/0"}, nil, false},
		{"the node's address inside", []string{"192.168.0.0/31"}, []string{"192.168.0.0/31"}, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := everywhere()
			for _, r := range c.ranges {
				s.SourceRanges = append(s.SourceRanges, netip.MustParsePrefix(r))
			}
			inputs := []Input{{web, s, []*model.Slice{slice("a", ready("10.244.0.3"))}}}
			p := Build(onNode(anyPod), inputs)
			port := p.Services[web].Ports[0]
			var got []string
			for _, r := range port.SourceRanges {
				got = append(got, r.String())
			}
			if !slices.Equal(got, c.want) || port.OwnSource != c.own {
				t.Errorf("got %v, the node's own %v; want %v, %v", got, port.OwnSource, c.want, c.own)
			}
			for _, source := range []netip.Addr{outsideAddr, nodeAddr, otherNode, lb.Addr(), localPod, netip.MustParseAddr("10.0.0.1")} {
				packet := Packet{Protocol: model.TCP, Source: source, Interface: "eth0", Dest: lb, Host: []netip.Addr{nodeAddr}}
				if got, want := p.Trace(packet), reference(p.Config, inputs, packet); !got.Equal(want) {
					t.Errorf("from %s: got %v, want %v", source, got, want)
				}
				packet.Dest = destinations[ExternalIP]
				if got := p.Trace(packet); got.Verdict != Translate {
					t.Errorf("from %s to the external IP: got %v, want no ranges there", source, got)
				}
			}
		})
	}
}

func TestSourceRangesWithoutALoadBalancerMeanNothing(t *testing.T) {
	s := everywhere()
	s.LoadBalancerIPs, s.SourceRanges = nil, []netip.Prefix{netip.MustParsePrefix("192.168.0.0/24")}
	port := Build(onNode(anyPod), []Input{{Name: web, Service: s}}).Services[web].Ports[0]
	if port.SourceRanges != nil || port.OwnSource {
		t.Errorf("got %v, the node's own %v; want none", port.SourceRanges, port.OwnSource)
	}
}

func TestAffinity(t *testing.T) {
	s := everywhere()
	s.Affinity = 3 * time.Hour
	p := Build(onNode(anyPod), []Input{{web, s, []*model.Slice{slice("a", ready("10.244.0.3"))}}})
	for kind, to := range destinations {
		if got := p.Trace(origins[5].packet(to)); got.Affinity != 3*time.Hour {
			t.Errorf("%v: got %v, want the Service's time-out", kind, got)
		}
	}
	s.Affinity = 0
	refused := Build(onNode(anyPod), []Input{{Name: web, Service: everywhere()}}).Trace(origins[5].packet(destinations[ClusterIP]))
	if refused.Affinity != 0 || refused.Verdict != Refuse {
		t.Errorf("without endpoints: got %v, want it refused and no affinity", refused)
	}
}

func TestHealthCheckCountsReadyAddressesHere(t *testing.T) {
	s := everywhere()
	s.ExternalLocal, s.HealthCheckNodePort = true, 32000
	s.Ports = append(s.Ports, model.ServicePort{Name: "https", Protocol: model.TCP, Port: 443})
	sl := slice("a", on("n1", ready("10.244.1.1")), on("n1", ready("10.244.1.2")), on("n1", terminating("10.244.1.3")),
		on("n1", notReady("10.244.1.4")), on("n2", ready("10.244.2.1")), ready("10.244.3.1"), on("n1", ready("127.0.0.1")))
	sl.Ports = append(sl.Ports, model.SlicePort{Name: "https", Protocol: model.TCP, Port: 8443})
	only := slice("b", on("n1", ready("10.244.1.9")))
	only.Ports = []model.SlicePort{{Name: "https", Protocol: model.TCP, Port: 8443}}
	in := []Input{{web, s, []*model.Slice{sl, only}}}
	if got, want := Build(onNode(anyPod), in).Services[web].HealthCheck, (HealthCheck{32000, 3}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	six := onNode(Detector{})
	six.Family = model.IPv6
	if got := Build(six, in).Services[web].HealthCheck; got != (HealthCheck{}) {
		t.Errorf("a family that the Service is not of: got %+v, want nothing", got)
	}
	s.HealthCheckNodePort = 0
	if got := Build(onNode(anyPod), in).Services[web].HealthCheck; got != (HealthCheck{}) {
		t.Errorf("without a port: got %+v, want nothing", got)
	}
}

// Each usable endpoint is in one of the lists or in Excluded with a reason, and in no list of which no route makes use.
func TestEveryEndpointIsAccountedFor(t *testing.T) {
	for situation, endpoints := range situations {
		for n := range 8 {
			s := everywhere()
			s.ExternalLocal, s.InternalLocal = n&1 != 0, n&2 != 0
			if n&4 != 0 {
				s.ExternalIPs, s.LoadBalancerIPs, s.Ports[0].NodePort = nil, nil, 0
			}
			port := Build(onNode(anyPod), []Input{{web, s, []*model.Slice{slice("a", endpoints...)}}}).Services[web].Ports[0]
			count := map[string]int{}
			for _, e := range port.Excluded {
				count[e.Endpoint.Addr.String()]++
			}
			in := map[string]bool{}
			for _, e := range slices.Concat(port.Endpoints, port.Local) {
				in[e.Addr.String()] = true
			}
			for _, e := range endpoints {
				a := e.Addr.String()
				if in[a] && count[a] != 0 || !in[a] && count[a] != 1 {
					t.Errorf("%s, external Local %v, internal Local %v: %s is taken: %v, and excluded %d times", situation, s.ExternalLocal, s.InternalLocal, a, in[a], count[a])
				}
			}
			var cluster, local bool
			for _, f := range port.Frontends {
				for _, r := range f.Routes() {
					cluster, local = cluster || r.Action == Balance && !r.Local, local || r.Local
				}
			}
			if cluster != (len(port.Endpoints) > 0) || local != (len(port.Local) > 0) {
				t.Errorf("%s, external Local %v, internal Local %v: lists %v and %v, routes to them %v and %v", situation, s.ExternalLocal, s.InternalLocal,
					texts(port.Endpoints), texts(port.Local), cluster, local)
			}
		}
	}
}
