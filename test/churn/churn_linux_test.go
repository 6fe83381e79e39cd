package churn

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest"

	"svcproxy/conntrack"
	"svcproxy/model"
	"svcproxy/plan"
	"svcproxy/proxier"
	"svcproxy/test/dataplane"
	"svcproxy/test/nstest"
	"svcproxy/test/world"
)

const (
	localPods, remotePods = 4, 2
	// calm is the least time between two syncs.
	calm = 10 * time.Millisecond
)

// TestChurnUnderLoad changes Services of every kind while pods, the node and a host outside use them.
func TestChurnUnderLoad(t *testing.T) {
	for _, plane := range dataplane.All {
		t.Run(plane.Name, func(t *testing.T) {
			d := newRun(t, plane, sound)
			end := time.After(time.Duration(nstest.Sized(1, 15_000)) * time.Millisecond)
			d.round()
			for over := false; !over && !d.load.broken.Load() && !t.Failed(); {
				select {
				case <-end:
					over = true
				default:
					d.round()
				}
			}
			d.finish()
			for _, err := range d.verdict() {
				t.Error(err)
			}
		})
	}
}

// The Services. Those at the end of this list lose all endpoints at times.
const (
	steady = iota
	web
	affinity
	local
	flicker
	services
)

// newCasts returns the Services with their first endpoints.
func newCasts(families []model.Family) (all []*cast) {
	for i := range services {
		s := &model.Service{Name: model.ServiceName{Namespace: "churn", Name: [...]string{"steady", "web", "affinity", "local", "flicker"}[i]},
			Created: time.Unix(int64(i), 0)}
		for _, f := range families {
			s.ClusterIPs = append(s.ClusterIPs, numbered(f, "10.96.0.", "fd00:10:96::", 10+i))
			if i == local {
				s.LoadBalancerIPs = append(s.LoadBalancerIPs, numbered(f, "203.0.113.", "2001:db8::", 10+i))
			}
			if i == flicker {
				s.ExternalIPs = append(s.ExternalIPs, numbered(f, "203.0.113.", "2001:db8::", 10+i))
			}
		}
		s.ExternalLocal = i == local
		if i == affinity {
			s.Affinity = 3 * time.Hour
		}
		s.Ports = []model.ServicePort{{Name: "tcp", Protocol: model.TCP, Port: 80}, {Name: "udp", Protocol: model.UDP, Port: 53}}
		for p := range s.Ports {
			s.Ports[p].NodePort = uint16(30080 + i)
		}
		all = append(all, &cast{service: s, target: uint16(8080 + 2*i), pods: make([]state, localPods+remotePods)})
	}
	return all
}

func numbered(f model.Family, v4, v6 string, n int) netip.Addr {
	if f == model.IPv4 {
		return netip.MustParseAddr(fmt.Sprint(v4, n))
	}
	return netip.MustParseAddr(fmt.Sprint(v6, n))
}

// targets are the addresses at which Services answer.
func targets(casts []*cast, families []model.Family) map[model.Protocol][]netip.AddrPort {
	all := map[model.Protocol][]netip.AddrPort{}
	for _, c := range casts {
		for _, p := range c.service.Ports {
			for _, a := range slices.Concat(c.service.ClusterIPs, c.service.LoadBalancerIPs, c.service.ExternalIPs) {
				all[p.Protocol] = append(all[p.Protocol], netip.AddrPortFrom(a, p.Port))
			}
			for _, f := range families {
				all[p.Protocol] = append(all[p.Protocol], netip.AddrPortFrom(world.NodeAddr(f), p.NodePort))
			}
		}
	}
	return all
}

// run is a driver with its Services, and load on them.
type run struct {
	*driver
	casts []*cast
}

// fault is what is wrong with a proxier on purpose, to see that it is noticed.
type fault uint8

const (
	sound fault = iota
	// late acknowledges each change one sync before it is applied, and leaves connection tracking as it is.
	late
	// forgetful leaves connection tracking as it is.
	forgetful
)

// newRun starts a proxier for a data plane, the Services, and the load.
func newRun(t *testing.T, plane dataplane.Plane, wrong fault) *run {
	t.Helper()
	w := world.New(t, world.Config{Pods: localPods + 1, RemotePods: remotePods, Hosts: 1, Ports: map[model.Protocol][]uint16{}})
	d := &driver{
		t: t, pods: slices.Concat(w.Pods[:localPods], w.Remote), local: localPods, families: model.Families,
		desired: proxier.NewObjects(), histories: map[model.Family]*history{},
		random: rand.New(rand.NewPCG(1, 2)), tick: time.NewTicker(calm),
		servers: map[location]*server{}, stops: map[netip.AddrPort][]time.Time{}, done: map[string]int{},
		settings: proxier.Settings{Mode: proxier.IPTables, ClusterCIDRs: []netip.Prefix{
			netip.MustParsePrefix("10.244.0.0/16"), netip.MustParsePrefix("fd00:10:244::/48")}},
	}
	t.Cleanup(d.tick.Stop)
	if plane == dataplane.NFTables {
		d.settings.Mode = proxier.NFTables
	}
	d.desired.Nodes[world.NodeName] = &model.Node{Name: world.NodeName, Addrs: w.Node.Addrs}
	d.desired.ServiceCIDRs["all"] = []netip.Prefix{netip.MustParsePrefix("10.96.0.0/16"), netip.MustParsePrefix("fd00:10:96::/112")}
	r := &run{d, newCasts(d.families)}
	for _, c := range r.casts {
		d.enough(c, 3)
		d.take(&proxier.Objects{Services: map[model.ServiceName]*model.Service{c.service.Name: c.service}, Slices: d.slices(c)})
	}
	t.Cleanup(func() {
		for _, s := range d.servers {
			s.stop()
		}
	})
	d.startProxier(plane, w.Node.Path(), wrong)
	packets := map[string]*world.Place{}
	places := []*world.Place{w.Pods[localPods], w.Node, w.Hosts[0]}
	d.load = &load{epoch: time.Now(), checker: &checker{histories: d.histories, stops: d.stops, masks: map[string]bool{}, traced: map[traceKey]plan.Outcome{}}}
	for _, p := range places {
		packets[p.Name], d.load.checker.masks[p.Name] = p, p != w.Node
	}
	d.load.checker.packet = func(a ask) plan.Packet { return w.Packet(packets[a.place], a.protocol, netip.Addr{}, a.to) }
	stuck := r.casts[affinity].service
	d.load.start(places, d.families, targets(r.casts, d.families), func(to netip.AddrPort) bool {
		return slices.Contains(stuck.ClusterIPs, to.Addr()) || to.Port() == stuck.Ports[0].NodePort
	})
	t.Cleanup(d.load.stop)
	return r
}

// startProxier starts the whole way from the source to the kernel, and waits for the first syncs.
func (d *driver) startProxier(plane dataplane.Plane, netns string, wrong fault) {
	log := zaptest.NewLogger(d.t, zaptest.Level(zap.WarnLevel))
	backends := map[model.Family]proxier.Backend{}
	for _, f := range d.families {
		b, err := plane.Open(f, netns, log)
		if err != nil {
			d.t.Fatal(err)
		}
		if wrong == late {
			b = &lateBackend{Backend: b}
		}
		d.histories[f] = &history{}
		backends[f] = &recorder{b, d.histories[f], func(err error) { d.t.Errorf("%s: %v", f, err) }}
	}
	source := &feed{make(chan proxier.Sink, 1)}
	o := proxier.Options{Source: source, Backends: backends, Log: log, BackendName: string(d.settings.Mode),
		Settings: d.settings, NodeName: world.NodeName, NetNS: netns}
	if wrong == sound { // a clean-up ahead of the rules would lose answers
		o.Conntrack = conntrack.NewNetlink(netns)
	}
	p, err := proxier.New(o)
	if err != nil {
		d.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- p.Run(ctx) }()
	d.t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			d.t.Error(err)
		}
	})
	d.sink = <-source.sinks
	d.sink.Update(*d.desired)
	d.sink.Synced()
	d.await()
}

// round does every change, in random order: in the full size each of every Service that may have it.
func (r *run) round() {
	type step struct {
		op
		*cast
	}
	var steps []step
	for _, o := range live {
		every := []int{web, affinity, local}
		r.random.Shuffle(len(every), func(i, j int) { every[i], every[j] = every[j], every[i] })
		for _, i := range every[:nstest.Sized(1, len(every))] {
			steps = append(steps, step{o, r.casts[i]})
		}
	}
	for _, o := range harsh {
		steps = append(steps, step{o, r.casts[flicker]})
	}
	steps = append(steps, step{away, r.casts[local]})
	r.random.Shuffle(len(steps), func(i, j int) { steps[i], steps[j] = steps[j], steps[i] })
	for _, s := range steps {
		s.do(r.driver, s.cast)
		r.done[s.name]++
	}
}

// finish leaves every Service with endpoints everywhere, and waits until each client is answered by all.
func (r *run) finish() {
	for _, c := range r.casts[web:] {
		r.serve(c, 0)
		r.sync(c)
	}
	now := time.Now()
	nstest.Eventually(r.t, 2*patience, func() error {
		if r.load.broken.Load() {
			return nil
		}
		return r.load.answered(now)
	})
	r.load.stop()
}

// verdict returns what was wrong, at most a few examples.
func (r *run) verdict() (wrong []error) {
	counts, failed, refused := map[kind]int{}, 0, 0
	first, last := time.Now(), r.load.epoch
	for _, c := range r.load.clients {
		for _, rec := range c.records {
			counts[rec.kind]++
			first, last = earlier(first, rec.begun), later(last, rec.ended)
			if rec.err != nil {
				refused++
			}
			if !rec.to.IsValid() {
				wrong = append(wrong, rec.err)
			} else if err := r.load.checker.judge(rec); err != nil {
				if failed++; failed <= 10 {
					wrong = append(wrong, fmt.Errorf("%v after the start: %w", rec.begun.Sub(r.load.epoch), err))
				}
			}
		}
		if c.kind == fresh {
			wrong = append(wrong, r.load.checker.judgeAffinity(c.records)...)
		}
	}
	for _, k := range []kind{fresh, keptUDP, keptTCP} {
		if counts[k] == 0 {
			wrong = append(wrong, fmt.Errorf("no requests of kind %d were made", k))
		}
	}
	n := counts[fresh] + counts[keptUDP] + counts[keptTCP]
	r.t.Logf("%d requests (%d fresh, %d of kept UDP ports, %d on kept connections), %.0f a second; %d unanswered; %d syncs; %d wrong; changes: %v", n,
		counts[fresh], counts[keptUDP], counts[keptTCP], float64(n)/last.Sub(first).Seconds(), refused, r.syncs, failed, slices.Sorted(maps.Keys(r.done)))
	return wrong
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}
