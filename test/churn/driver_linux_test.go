package churn

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"svcproxy/model"
	"svcproxy/proxier"
	"svcproxy/test/nstest"
	"svcproxy/test/world"
)

// feed is a source that the test drives.
type feed struct{ sinks chan proxier.Sink }

// Run implements proxier.Source.
func (f *feed) Run(ctx context.Context, sink proxier.Sink) error {
	f.sinks <- sink
	<-ctx.Done()
	return nil
}

// state is what an endpoint of a Service is.
type state uint8

const (
	absent state = iota
	ready
	terminating
)

// cast is a Service with endpoints that come and go. Each server pod may be one.
type cast struct {
	service *model.Service
	// target is the port of its servers.
	target uint16
	pods   []state
	gone   bool
}

// in returns the pods in a state.
func (c *cast) in(s state) (all []int) {
	for i, at := range c.pods {
		if at == s {
			all = append(all, i)
		}
	}
	return all
}

// location is where a server may be.
type location struct {
	pod  int
	port uint16
}

// driver changes Services and tells the proxier.
type driver struct {
	t         *testing.T
	pods      []*world.Place
	local     int // the first pods are on the node
	families  []model.Family
	settings  proxier.Settings
	sink      proxier.Sink
	desired   *proxier.Objects
	histories map[model.Family]*history
	load      *load
	random    *rand.Rand
	tick      *time.Ticker
	servers   map[location]*server
	retiring  []location
	// immortal lets servers live when they are no endpoints any more.
	immortal bool
	stops    map[netip.AddrPort][]time.Time
	done     map[string]int
	syncs    int
}

// slices returns the cast's slices, nil for those that are gone.
func (d *driver) slices(c *cast) map[model.SliceName]*model.Slice {
	all := map[model.SliceName]*model.Slice{}
	for _, f := range d.families {
		name := model.SliceName{Namespace: c.service.Name.Namespace, Name: c.service.Name.Name + "-" + f.String()}
		if all[name] = nil; c.gone {
			continue
		}
		s := &model.Slice{Name: name, Service: c.service.Name, Family: f}
		for _, p := range c.service.Ports {
			s.Ports = append(s.Ports, model.SlicePort{Name: p.Name, Protocol: p.Protocol, Port: c.target})
		}
		for i, at := range c.pods {
			if at == absent {
				continue
			}
			node := world.NodeName
			if i >= d.local {
				node = world.OtherNodeName
			}
			s.Endpoints = append(s.Endpoints, model.Endpoint{Addr: d.pods[i].Addr(f), Ready: at == ready, Serving: true,
				Terminating: at == terminating, NodeName: node})
		}
		all[name] = s
	}
	return all
}

// sync tells the proxier about a Service and waits until the kernel has it. Servers that were no endpoints
// any more before it are then stopped, as soon as what was under way to them is done.
func (d *driver) sync(c *cast) {
	d.t.Helper()
	select {
	case <-d.tick.C:
	case <-d.t.Context().Done():
	}
	if d.load.broken.Load() {
		return
	}
	d.drain()
	late := d.retiring
	if d.retiring = nil; d.immortal {
		late = nil
	}
	service := c.service
	if c.gone {
		service = nil
	}
	update := proxier.NewObjects()
	update.Services[c.service.Name], update.Slices = service, d.slices(c)
	d.take(update)
	d.sink.Update(*update)
	d.await()
	d.syncs++
	if len(late) > 0 {
		d.drain()
	}
	for _, at := range late {
		s := d.servers[at]
		delete(d.servers, at)
		stopped := s.stop()
		for _, a := range s.at {
			d.stops[a] = append(d.stops[a], stopped)
		}
	}
}

// drain waits until every request that has begun is done.
func (d *driver) drain() {
	d.t.Helper()
	now := time.Now()
	nstest.Eventually(d.t, 2*patience, func() error { return d.load.drained(now) })
}

// take brings an update into the desired state.
func (d *driver) take(u *proxier.Objects) {
	for name, s := range u.Services {
		if d.desired.Services[name] = s; s == nil {
			delete(d.desired.Services, name)
		}
	}
	for name, s := range u.Slices {
		if d.desired.Slices[name] = s; s == nil {
			delete(d.desired.Slices, name)
		}
	}
}

// await waits until the plan of the desired state is acknowledged.
func (d *driver) await() {
	d.t.Helper()
	for _, f := range d.families {
		want := d.desired.Plan(f, d.settings, world.NodeName)
		nstest.Eventually(d.t, 2*patience, func() error {
			have := d.histories[f].latest()
			if have == nil || len(have.Services) != len(want.Services) {
				return fmt.Errorf("%s: not as many Services are programmed as wanted", f)
			}
			for name, s := range want.Services {
				if h := have.Services[name]; h == nil || !h.Equal(s) {
					return fmt.Errorf("%s: %s is not programmed as wanted", f, name)
				}
			}
			return nil
		})
	}
}

// serve makes a pod ready, with a server behind it.
func (d *driver) serve(c *cast, pod int) {
	at := location{pod, c.target}
	d.retiring = slices.DeleteFunc(d.retiring, func(l location) bool { return l == at })
	if d.servers[at] == nil {
		d.servers[at] = startServer(d.t, d.pods[pod], c.target)
	}
	c.pods[pod] = ready
}

// drop makes a pod no endpoint any more.
func (d *driver) drop(c *cast, pod int) {
	c.pods[pod] = absent
	d.retiring = append(d.retiring, location{pod, c.target})
}

func (d *driver) pick(from []int) int { return from[d.random.IntN(len(from))] }

// enough brings a Service to so many ready endpoints at least.
func (d *driver) enough(c *cast, n int) {
	for len(c.in(ready)) < n {
		d.serve(c, d.pick(c.in(absent)))
	}
}

// op is a change of a Service, which may take several syncs.
type op struct {
	name string
	do   func(*driver, *cast)
}

// live are the changes that leave a Service with endpoints at every moment, so that no request may be lost.
var live = []op{
	{"add", func(d *driver, c *cast) {
		if free := c.in(absent); len(free) > 1 {
			d.serve(c, d.pick(free))
		}
		d.sync(c)
	}},
	{"remove", func(d *driver, c *cast) {
		d.enough(c, 2)
		d.sync(c)
		d.drop(c, d.pick(c.in(ready)))
		d.sync(c)
	}},
	{"replace", func(d *driver, c *cast) {
		out := d.pick(c.in(ready))
		d.serve(c, d.pick(c.in(absent)))
		d.drop(c, out)
		d.sync(c)
	}},
	{"terminate gracefully", func(d *driver, c *cast) {
		d.enough(c, 2)
		out := d.pick(c.in(ready))
		d.sync(c)
		c.pods[out] = terminating
		d.sync(c)
		d.drop(c, out)
		d.sync(c)
	}},
	{"terminate all, then replace them", func(d *driver, c *cast) {
		old := c.in(ready)
		for len(old) > len(c.pods)-2 {
			d.drop(c, old[0])
			old = old[1:]
		}
		for _, i := range old {
			c.pods[i] = terminating
		}
		d.sync(c)
		d.serve(c, d.pick(c.in(absent)))
		d.sync(c)
		for _, i := range old {
			d.drop(c, i)
		}
		d.sync(c)
	}},
}

// harsh are the changes that leave a Service without endpoints for some time, or from some places.
var harsh = []op{
	{"scale to zero and back", func(d *driver, c *cast) {
		for _, i := range c.in(ready) {
			d.drop(c, i)
		}
		d.sync(c)
		d.enough(c, 3)
		d.sync(c)
	}},
	{"delete and make again with another target port", func(d *driver, c *cast) {
		for _, i := range c.in(ready) {
			d.drop(c, i)
		}
		c.gone = true
		d.sync(c)
		c.gone = false
		c.target ^= 1
		d.enough(c, 3)
		d.sync(c)
	}},
}

// away leaves no endpoint on this node for some time.
var away = op{"leave the node and come back", func(d *driver, c *cast) {
	d.serve(c, d.local)
	for i := range d.local {
		if c.pods[i] != absent {
			d.drop(c, i)
		}
	}
	d.sync(c)
	d.serve(c, 0)
	d.sync(c)
}}
