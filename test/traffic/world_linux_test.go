package traffic

import (
	"net/netip"
	"testing"

	"svcproxy/model"
	"svcproxy/test/world"
)

// protocols are those of Services.
var protocols = []model.Protocol{model.TCP, model.UDP, model.SCTP}

// Ports of every Service and of every server. They differ, so that an address translated without its port
// is noticed.
var (
	servicePorts = map[model.Protocol]uint16{model.TCP: 80, model.UDP: 53, model.SCTP: 36412}
	serverPorts  = map[model.Protocol]uint16{model.TCP: 8080, model.UDP: 5353, model.SCTP: 9000}
)

const (
	serverPods = 10
	clientPods = 2
)

// cluster is a world whose first pods serve and whose others ask.
type cluster struct {
	*world.World
	servers, clients []*world.Place
	outside          *world.Place
}

// newCluster makes a cluster that ends with the test.
func newCluster(t *testing.T) *cluster {
	t.Helper()
	ports := map[model.Protocol][]uint16{}
	for protocol, port := range serverPorts {
		ports[protocol] = []uint16{port}
	}
	w := world.New(t, world.Config{Pods: serverPods + clientPods, Hosts: 1, Ports: ports})
	return &cluster{w, w.Pods[:serverPods], w.Pods[serverPods:], w.Hosts[0]}
}

func serverAddr(f model.Family, i int) netip.Addr { return world.PodAddr(f, i) }

func clusterIP(f model.Family, i int) netip.Addr {
	a := map[model.Family]netip.Addr{model.IPv4: netip.MustParseAddr("10.96.0.10"), model.IPv6: netip.MustParseAddr("fd00:10:96::10")}[f]
	for range i {
		a = a.Next()
	}
	return a
}
