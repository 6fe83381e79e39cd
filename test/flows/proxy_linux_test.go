package flows

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"sync"
	"testing"
	"time"

	"go.uber.org/zap/zaptest"

	"svcproxy/conntrack"
	"svcproxy/model"
	"svcproxy/proxier"
	"svcproxy/test/dataplane"
	"svcproxy/test/nstest"
	"svcproxy/test/world"
)

const (
	port, nodePort = 53, 30053
	target, other  = 5353, 5454
)

// cluster is a world whose node runs a proxy for one family.
type cluster struct {
	*world.World
	f       model.Family
	plane   dataplane.Plane
	client  *world.Place
	outside *world.Place
	sink    proxier.Sink
	stop    func()
}

// mode is the plane's proxy mode.
func mode(p dataplane.Plane) proxier.Mode {
	if p == dataplane.NFTables {
		return proxier.NFTables
	}
	return proxier.IPTables
}

// eachCluster runs a test with every data plane and family.
func eachCluster(t *testing.T, test func(t *testing.T, c *cluster)) {
	for _, plane := range dataplane.All {
		for _, f := range model.Families {
			t.Run(plane.Name+" "+f.String(), func(t *testing.T) {
				w := world.New(t, world.Config{Pods: 4, Hosts: 1,
					Ports: map[model.Protocol][]uint16{model.UDP: {target, other}}})
				c := &cluster{World: w, f: f, plane: plane, client: w.Pods[3], outside: w.Hosts[0]}
				test(t, c)
			})
		}
	}
}

// start starts a proxy, which is given what there is.
func (c *cluster) start(t *testing.T, service *model.Service, slice *model.Slice) {
	t.Helper()
	// The log ends before the test does.
	log := zaptest.NewLogger(t)
	backend, err := c.plane.Open(c.f, c.Node.Path(), log)
	if err != nil {
		t.Fatal(err)
	}
	source := &pushed{first: c.objects(service, slice), started: make(chan struct{})}
	p, err := proxier.New(proxier.Options{
		Source: source, Backends: map[model.Family]proxier.Backend{c.f: backend}, BackendName: string(mode(c.plane)), Log: log,
		NodeName: world.NodeName, Settings: proxier.Settings{Mode: mode(c.plane)}, NetNS: c.Node.Path(),
		Conntrack: conntrack.NewNetlink(c.Node.Path()),
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	c.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(c.stop)
	<-source.started
	c.sink = source.sink
}

// pushed is a source whose sink the test speaks to.
type pushed struct {
	first   proxier.Objects
	sink    proxier.Sink
	started chan struct{}
}

func (p *pushed) Run(ctx context.Context, sink proxier.Sink) error {
	sink.Update(p.first)
	sink.Synced()
	p.sink = sink
	close(p.started)
	<-ctx.Done()
	return nil
}

var name = model.ServiceName{Namespace: "default", Name: "dns"}

func (c *cluster) objects(service *model.Service, slice *model.Slice) proxier.Objects {
	o := *proxier.NewObjects()
	o.Services[name] = service
	o.Slices[model.SliceName{Namespace: "default", Name: "dns-1"}] = slice
	o.Nodes[world.NodeName] = &model.Node{Name: world.NodeName, Addrs: c.Node.Addrs}
	o.ServiceCIDRs["kubernetes"] = []netip.Prefix{netip.PrefixFrom(c.clusterIP(), c.f.Bits()/2).Masked()}
	return o
}

func (c *cluster) set(service *model.Service, slice *model.Slice) {
	c.sink.Update(c.objects(service, slice))
}

func (c *cluster) clusterIP() netip.Addr { return at(c.f, 96, 10, 0).Addr() }

func (c *cluster) service() *model.Service {
	return &model.Service{Name: name, ClusterIPs: []netip.Addr{c.clusterIP()},
		Ports: []model.ServicePort{{Name: "dns", Protocol: model.UDP, Port: port, NodePort: nodePort}}}
}

// slice is one with these pods.
func (c *cluster) slice(targetPort uint16, pods ...int) *model.Slice {
	s := &model.Slice{Name: model.SliceName{Namespace: "default", Name: "dns-1"}, Service: name, Family: c.f,
		Ports: []model.SlicePort{{Name: "dns", Protocol: model.UDP, Port: targetPort}}}
	for _, i := range pods {
		s.Endpoints = append(s.Endpoints, model.Endpoint{Addr: c.pod(i, 0).Addr(), Ready: true, Serving: true, NodeName: world.NodeName})
	}
	return s
}

func (c *cluster) pod(i int, port uint16) netip.AddrPort {
	return netip.AddrPortFrom(world.PodAddr(c.f, i), port)
}

// client goes on asking from one port.
type client struct {
	*world.Conn
	from *world.Place
}

func dial(t *testing.T, from *world.Place, q world.Question) client {
	t.Helper()
	q.Protocol = model.UDP
	conn, err := from.Dial(q)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(conn.Close)
	return client{conn, from}
}

// ask is Conn.Ask where the client is, from where silence is told from a way that carries nothing.
func (c client) ask() (r world.Result, err error) {
	err = c.from.Do(func() (err error) {
		r, err = c.Ask()
		return err
	})
	return r, err
}

func (c *cluster) clients(t *testing.T) map[string]client {
	t.Helper()
	all := map[string]client{}
	for what, d := range map[string]struct {
		from *world.Place
		to   netip.AddrPort
	}{
		"a pod at the ClusterIP":     {c.client, netip.AddrPortFrom(c.clusterIP(), port)},
		"the node at the ClusterIP":  {c.Node, netip.AddrPortFrom(c.clusterIP(), port)},
		"outside at the node port":   {c.outside, netip.AddrPortFrom(world.NodeAddr(c.f), nodePort)},
		"an endpoint at the Service": {c.Pods[0], netip.AddrPortFrom(c.clusterIP(), port)},
	} {
		all[what] = dial(t, d.from, world.Question{To: d.to})
	}
	return all
}

const patience = 20 * time.Second

// answered waits until each client is answered by one of the endpoints.
func answered(t *testing.T, clients map[string]client, by ...netip.AddrPort) {
	t.Helper()
	for who, conn := range clients {
		nstest.Eventually(t, patience, func() error {
			r, err := conn.ask()
			if err != nil {
				return err
			}
			for _, e := range by {
				if r.Verdict == world.Answered && r.Endpoint == e {
					return nil
				}
			}
			return fmt.Errorf("%s: %s, want answered by %v", who, r, by)
		})
	}
}

// refused waits until each client is refused.
func refused(t *testing.T, clients map[string]client) {
	t.Helper()
	for who, conn := range clients {
		nstest.Eventually(t, patience, func() error {
			r, err := conn.ask()
			if err == nil && r.Verdict != world.Refused {
				err = fmt.Errorf("%s: %s, want refused", who, r)
			}
			return err
		})
	}
}

// tracked returns the node's UDP flows of the family.
func (c *cluster) tracked(t *testing.T) map[conntrack.Tuple]conntrack.Flow {
	t.Helper()
	opened, err := conntrack.NewNetlink(c.Node.Path()).Open()
	if err != nil {
		t.Fatal(err)
	}
	defer opened.Close()
	return (&table{opened, nil}).flows(t, c.f)
}

// bystanders are flows that are none of the Service's, and fails the test when one of them is gone.
func (c *cluster) bystanders(t *testing.T) (check func()) {
	t.Helper()
	made := map[string]client{}
	for what, q := range map[string]world.Question{
		"a pod to another":                           {To: c.pod(0, target)},
		"outside to a pod":                           {To: c.pod(1, target)},
		"a pod to a host, by the node port's number": {To: netip.AddrPortFrom(world.HostAddr(c.f, 0), target)},
		"a pod to a host at the node port's number":  {To: netip.AddrPortFrom(world.HostAddr(c.f, 0), nodePort)},
	} {
		from := c.client
		if what == "outside to a pod" {
			from = c.outside
		}
		if what == "a pod to a host, by the node port's number" {
			q.Source = netip.AddrPortFrom(c.client.Addr(c.f), nodePort)
		}
		conn := dial(t, from, q)
		if r, err := conn.ask(); err != nil || r.Verdict != world.Answered {
			t.Fatalf("%s: %v, %v", what, r, err)
		}
		made[what] = conn
	}
	find := func(conn client) (conntrack.Flow, bool) {
		for _, f := range c.tracked(t) {
			if f.Original.Source.Port() == conn.Source.Port() && f.Original.Dest == conn.To {
				return f, true
			}
		}
		return conntrack.Flow{}, false
	}
	before := map[string]conntrack.Flow{}
	for what, conn := range made {
		f, ok := find(conn)
		if !ok {
			t.Fatalf("%s: not tracked", what)
		}
		before[what] = f
	}
	return func() {
		t.Helper()
		for what, conn := range made {
			if f, ok := find(conn); !ok || f != before[what] {
				t.Errorf("%s: the flow is gone: %s", what, before[what])
			}
		}
	}
}

func TestClientsReachWhatThereIs(t *testing.T) {
	eachCluster(t, func(t *testing.T, c *cluster) {
		c.outside.Serve(t, model.UDP, nodePort)
		c.start(t, c.service(), c.slice(target, 0, 1))
		clients := c.clients(t)
		answered(t, clients, c.pod(0, target), c.pod(1, target))
		bystanders := c.bystanders(t)

		c.set(c.service(), c.slice(target, 2)) // pods 0 and 1 still answer whoever asks them
		answered(t, clients, c.pod(2, target))
		c.set(c.service(), c.slice(target)) // scaled to zero
		refused(t, clients)
		c.set(c.service(), c.slice(target, 0))
		answered(t, clients, c.pod(0, target))
		c.set(c.service(), c.slice(other, 0)) // another target port
		answered(t, clients, c.pod(0, other))
		c.set(nil, nil) // deleted
		c.forgotten(t, clients)
		bystanders()
		c.set(c.service(), c.slice(target, 1))
		answered(t, clients, c.pod(1, target))

		c.stop() // and what goes meanwhile is seen at the next start
		healthy := c.tracked(t)
		c.start(t, c.service(), c.slice(target, 1, 2))
		c.awaitCleanUp(t)
		answered(t, clients, c.pod(1, target))
		for _, conn := range clients {
			if !sameFlow(healthy, c.tracked(t), conn) {
				t.Errorf("a restart cleared the healthy flow of %s", conn.Source)
			}
		}
		c.stop()
		c.start(t, nil, nil)
		atClusterIP := maps.Clone(clients) // of other frontends nobody knows at a start that they were any
		delete(atClusterIP, "outside at the node port")
		c.forgotten(t, atClusterIP)
	})
}

// forgotten waits until no flow of the clients is translated any more.
func (c *cluster) forgotten(t *testing.T, clients map[string]client) {
	t.Helper()
	nstest.Eventually(t, patience, func() error {
		for _, f := range c.tracked(t) {
			for who, conn := range clients {
				if f.Translated() && f.Original.Source.Port() == conn.Source.Port() && f.Original.Dest == conn.To {
					return fmt.Errorf("%s: left: %s", who, f)
				}
			}
		}
		return nil
	})
}

// awaitCleanUp waits for a clean-up: a flow that is stale goes.
func (c *cluster) awaitCleanUp(t *testing.T) {
	t.Helper()
	stale := Translated(at(c.f, 244, 200, 4444), netip.AddrPortFrom(c.clusterIP(), port), at(c.f, 244, 201, target))
	if err := c.Node.Do(func() error { return Fill([]conntrack.Flow{stale}) }); err != nil {
		t.Fatal(err)
	}
	c.set(c.service(), c.slice(target, 1)) // an endpoint goes
	nstest.Eventually(t, patience, func() error {
		if _, left := c.tracked(t)[stale.Original]; left {
			return fmt.Errorf("left: %s", stale)
		}
		return nil
	})
}

// sameFlow tells whether a client's flow is the one that it was.
func sameFlow(before, after map[conntrack.Tuple]conntrack.Flow, conn client) bool {
	for _, f := range before {
		if f.Original.Source.Port() == conn.Source.Port() && f.Original.Dest == conn.To {
			return after[f.Original] == f
		}
	}
	return false
}
