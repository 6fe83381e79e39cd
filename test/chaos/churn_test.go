package chaos

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"time"

	"svcproxy/model"
	"svcproxy/proxier"
)

// untouched is the Service that no churn touches, with its ClusterIPs.
var (
	untouched    = model.ServiceName{Namespace: "quiet", Name: "untouched"}
	untouchedIPs = map[model.Family]netip.Addr{
		model.IPv4: netip.MustParseAddr("10.96.0.10"), model.IPv6: netip.MustParseAddr("fd00:10:96::10")}
)

const (
	servicePort = 80
	serverPort  = 8080
)

// churn is a cluster in which something changes all the time. The same seed gives the same changes.
type churn struct {
	random *rand.Rand
	// desired is the state that all updates so far lead to.
	desired *proxier.Objects
}

// newChurn returns a cluster of so many Services besides the untouched one, which has the servers behind it.
func newChurn(seed uint64, services int, servers map[model.Family][]netip.Addr) *churn {
	c := &churn{rand.New(rand.NewPCG(seed, 1)), proxier.NewObjects()}
	quiet := &update{Services: []*model.Service{newService(untouched, untouchedIPs, servicePort)}}
	for _, f := range model.Families {
		quiet.Slices = append(quiet.Slices, newSlice(untouched, f, servers[f]))
	}
	c.take(quiet)
	for i := range services {
		c.take(c.remake(i))
	}
	return c
}

func newService(name model.ServiceName, ips map[model.Family]netip.Addr, port uint16) *model.Service {
	return &model.Service{Name: name, Created: time.Unix(0, 0), ClusterIPs: []netip.Addr{ips[model.IPv4], ips[model.IPv6]},
		Ports: []model.ServicePort{{Name: "http", Protocol: model.TCP, Port: port}}}
}

func sliceName(service model.ServiceName, f model.Family) model.SliceName {
	return model.SliceName{Namespace: service.Namespace, Name: service.Name + "-" + f.String()}
}

func newSlice(service model.ServiceName, f model.Family, addrs []netip.Addr) *model.Slice {
	s := &model.Slice{Name: sliceName(service, f), Service: service, Family: f,
		Ports: []model.SlicePort{{Name: "http", Protocol: model.TCP, Port: serverPort}}}
	for _, a := range addrs {
		s.Endpoints = append(s.Endpoints, model.Endpoint{Addr: a, Ready: true, Serving: true})
	}
	return s
}

// remake gives a Service new ClusterIPs out of few, so that some dispute them, and new endpoints.
func (c *churn) remake(i int) *update {
	name := model.ServiceName{Namespace: "busy", Name: fmt.Sprintf("service-%d", i)}
	n := 100 + c.random.IntN(150)
	u := &update{Services: []*model.Service{newService(name, map[model.Family]netip.Addr{
		model.IPv4: netip.AddrFrom4([4]byte{10, 96, 0, byte(n)}),
		model.IPv6: netip.MustParseAddr(fmt.Sprintf("fd00:10:96::%x", n)),
	}, servicePort+uint16(c.random.IntN(3)))}}
	for _, f := range model.Families {
		u.Slices = append(u.Slices, newSlice(name, f, c.endpoints(f)))
	}
	return u
}

// endpoints returns up to 8 addresses of pods.
func (c *churn) endpoints(f model.Family) []netip.Addr {
	var all []netip.Addr
	for range c.random.IntN(9) {
		n := c.random.IntN(1 << 12)
		a := netip.AddrFrom4([4]byte{10, 244, byte(16 + n>>8), byte(n)})
		if f == model.IPv6 {
			a = netip.MustParseAddr(fmt.Sprintf("fd00:10:244::%x", 0x1000+n))
		}
		all = append(all, a)
	}
	return all
}

// next returns a change of one Service that matters to both families, and takes it into the desired state.
func (c *churn) next() *update {
	var u *update
	for changed := false; !changed; {
		i := c.random.IntN(len(c.desired.Services))
		u = c.remake(i)
		name := u.Services[0].Name
		now := c.desired.Services[name]
		switch {
		case now != nil && c.random.IntN(4) == 0:
			u = &update{GoneServices: []model.ServiceName{name}}
			for _, f := range model.Families {
				u.GoneSlices = append(u.GoneSlices, sliceName(name, f))
			}
			changed = true
		case now != nil && c.random.IntN(2) == 0:
			u.Services = nil // its endpoints alone
			changed = c.changes(u.Slices)
		default:
			changed = now == nil || !now.Equal(u.Services[0])
		}
	}
	c.take(u)
	return u
}

// changes tells whether all slices differ from the desired ones.
func (c *churn) changes(all []*model.Slice) bool {
	for _, s := range all {
		if now := c.desired.Slices[s.Name]; now == nil || now.Equal(s) {
			return false
		}
	}
	return true
}

func (c *churn) take(u *update) {
	o := u.objects()
	merge(c.desired.Services, o.Services)
	merge(c.desired.Slices, o.Slices)
}

func merge[K comparable, V any](state, update map[K]*V) {
	for name, v := range update {
		if v == nil {
			delete(state, name)
		} else {
			state[name] = v
		}
	}
}

// all returns an update that leads from nothing to the desired state.
func (c *churn) all() *update {
	u := &update{Synced: true}
	for _, s := range c.desired.Services {
		u.Services = append(u.Services, s)
	}
	for _, s := range c.desired.Slices {
		u.Slices = append(u.Slices, s)
	}
	return u
}
