package proxier

import (
	"fmt"
	"net/netip"
	"testing"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"svcproxy/model"
	"svcproxy/plan"
)

func TestWhatAServiceHasInVainIsLoggedOnce(t *testing.T) {
	core, logs := observer.New(zap.WarnLevel)
	log := zap.New(core)
	p := &pipeline{family: model.IPv4, log: log, notes: &noteLog{log: log}}
	name := model.ServicePortName{Service: named("web"), Port: "http", Protocol: model.TCP}
	holder := model.ServicePortName{Service: named("older"), Port: "http", Protocol: model.TCP}
	port := plan.ServicePort{
		Name: name,
		Excluded: []plan.Exclusion{
			{Endpoint: plan.Endpoint{Addr: netip.MustParseAddr("127.0.0.1"), Port: 22}, Reason: plan.BadAddress},
			{Endpoint: plan.Endpoint{Addr: netip.MustParseAddr("10.244.0.2"), Port: 22}, Reason: plan.NotReady},
		},
		Lost: []plan.LostFrontend{
			{Frontend: plan.Frontend{FrontendKey: plan.FrontendKey{Addr: netip.MustParseAddr("192.0.2.1"), Protocol: model.TCP, Port: 80}, Kind: plan.ExternalIP}, Holder: holder},
			{Frontend: plan.Frontend{FrontendKey: plan.FrontendKey{Protocol: model.TCP, Port: 30080}, Kind: plan.NodePort}, Holder: holder},
		},
	}
	odd := map[model.ServiceName]*plan.Service{named("web"): {Name: named("web"), Ports: []plan.ServicePort{port}}}
	want := "[default/web:http: endpoint 127.0.0.1:22 is never used: loopback, link-local, multicast, broadcast or unspecified address " +
		"default/web:http: ExternalIP 192.0.2.1 port 80 TCP belongs to default/older:http default/web:http: NodePort *:30080 TCP belongs to default/older:http]"

	p.warn(odd)
	p.warn(odd)
	checkWarnings(t, logs, want)
	fine := map[model.ServiceName]*plan.Service{named("web"): {Name: named("web"), Ports: []plan.ServicePort{{Name: name}}}}
	p.warn(fine)
	checkWarnings(t, logs)
	p.warn(odd)
	checkWarnings(t, logs, want)
	p.warn(map[model.ServiceName]*plan.Service{named("web"): nil})
	p.warn(odd)
	checkWarnings(t, logs, want)
}

// checkWarnings compares what was said to be unserved since the last call.
func checkWarnings(t *testing.T, logs *observer.ObservedLogs, want ...string) {
	t.Helper()
	var got []string
	for _, e := range logs.TakeAll() {
		got = append(got, fmt.Sprint(e.ContextMap()["unserved"]))
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("logged %v, want %v", got, want)
	}
}
