package proxier

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"svcproxy/model"
	"svcproxy/plan"
	"svcproxy/test/nstest"
)

// balancer makes a load balancer with the policy Local and a health-check node port, in both families.
func balancer(name string, ip byte, health uint16) *model.Service {
	s := service(name, ip)
	s.ClusterIPs = append(s.ClusterIPs, netip.AddrFrom16([16]byte{0: 0xfd, 15: ip}))
	s.LoadBalancerIPs = []netip.Addr{netip.AddrFrom4([4]byte{203, 0, 113, ip})}
	s.ExternalLocal, s.HealthCheckNodePort = true, health
	return s
}

// local makes a slice whose endpoints are on the node of the tests.
func local(of string, endpoints ...byte) *model.Slice {
	s := slice(of, 8080, endpoints...)
	for i := range s.Endpoints {
		s.Endpoints[i].NodeName = "node"
	}
	return s
}

// reply is an answer to a health check, or that there is none.
type reply struct {
	status int
	body   string
	header http.Header
	err    error
}

// ask asks at an address inside of a namespace, on a connection of its own.
func ask(t testing.TB, ns *nstest.NS, address string) reply {
	t.Helper()
	transport := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, network, address string) (c net.Conn, err error) {
		err = ns.Do(func() error { c, err = (&net.Dialer{}).DialContext(ctx, network, address); return err })
		return c, err
	}}
	res, err := (&http.Client{Transport: transport, Timeout: 5 * time.Second}).Get("http://" + address + "/")
	if err != nil {
		return reply{err: err}
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	return reply{res.StatusCode, string(body), res.Header, err}
}

// answers lets time pass until an address answers with a status; 0 is a refused connection.
func (r *running) answers(t *testing.T, ns *nstest.NS, address string, status int) reply {
	t.Helper()
	var last reply
	nstest.Eventually(t, 10*time.Second, func() error {
		r.clock.Step(50 * time.Millisecond)
		last = ask(t, ns, address)
		if last.status != status || status == 0 && !errors.Is(last.err, syscall.ECONNREFUSED) {
			return fmt.Errorf("%s: got %d, %v, want %d", address, last.status, last.err, status)
		}
		return nil
	})
	return last
}

func (r *running) says(text string) int { return r.logs.FilterMessageSnippet(text).Len() }

func TestHealthChecksAreAnsweredAsByKubeProxy(t *testing.T) {
	ns := nstest.New(t)
	r := run(t, func(o *Options, _ *running) { o.NetNS = ns.Path() })
	r.store.Update(update(balancer("web", 1, 32001), local("web", 1, 2)))
	got := r.answers(t, ns, "127.0.0.1:32001", http.StatusOK)
	const want = "{\n\t\"service\": {\n\t\t\"namespace\": \"default\",\n\t\t\"name\": \"web\"\n\t},\n\t\"localEndpoints\": 2,\n\t\"serviceProxyHealthy\": true\n}"
	if got.body != want {
		t.Errorf("got %s\nwant %s", got.body, want)
	}
	for name, value := range map[string]string{
		"Content-Type": "application/json", "X-Content-Type-Options": "nosniff", "X-Load-Balancing-Endpoint-Weight": "2",
	} {
		if h := got.header.Get(name); h != value {
			t.Errorf("%s: got %q, want %q", name, h, value)
		}
	}
	if err := ask(t, nstest.New(t), "127.0.0.1:32001").err; !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("in another namespace: %v", err)
	}
	// IPv6 has no endpoints here, and says so on the same number.
	if got := r.answers(t, ns, "[::1]:32001", http.StatusServiceUnavailable); got.header.Get("X-Load-Balancing-Endpoint-Weight") != "0" {
		t.Errorf("IPv6: got %+v", got)
	}

	leaving := local("web", 1, 2)
	for i := range leaving.Endpoints {
		leaving.Endpoints[i].Ready, leaving.Endpoints[i].Terminating = false, true
	}
	r.store.Update(update(leaving))
	r.answers(t, ns, "127.0.0.1:32001", http.StatusServiceUnavailable) // though they still get connections
	r.store.Update(update(local("web", 3)))
	r.answers(t, ns, "127.0.0.1:32001", http.StatusOK)
	r.store.Update(update(slice("web", 8080, 3))) // elsewhere
	r.answers(t, ns, "127.0.0.1:32001", http.StatusServiceUnavailable)
}

func TestHealthCheckNodePortsFollowTheServices(t *testing.T) {
	ns := nstest.New(t)
	r := run(t, func(o *Options, _ *running) { o.NetNS = ns.Path() })
	r.store.Update(update(balancer("a", 1, 32001), local("a", 1), balancer("b", 2, 32002), local("b", 2)))
	r.answers(t, ns, "127.0.0.1:32001", http.StatusOK)
	r.answers(t, ns, "127.0.0.1:32002", http.StatusOK)

	r.store.Update(update(balancer("a", 1, 32003)))
	r.answers(t, ns, "127.0.0.1:32003", http.StatusOK)
	r.answers(t, ns, "127.0.0.1:32001", 0)

	r.store.Update(update(balancer("b", 2, 0), balancer("c", 3, 32002), local("c", 3))) // hands its port over
	nstest.Eventually(t, 10*time.Second, func() error {
		r.clock.Step(50 * time.Millisecond)
		if got := ask(t, ns, "127.0.0.1:32002"); got.status != http.StatusOK || got.header.Get("X-Load-Balancing-Endpoint-Weight") != "1" {
			return fmt.Errorf("got %+v", got)
		}
		return nil
	})
	r.store.Update(update(named("a"), named("c")))
	r.answers(t, ns, "127.0.0.1:32003", 0)
	r.answers(t, ns, "127.0.0.1:32002", 0)
	r.answers(t, ns, "[::1]:32002", 0)
	if n := r.says("can't ask"); n > 0 {
		t.Errorf("%d problems were reported: %v", n, r.logs.All())
	}
}

func TestAHealthCheckNodePortInUseIsNamedAndTriedAgain(t *testing.T) {
	ns := nstest.New(t)
	var taken net.Listener
	if err := ns.Do(func() (err error) { taken, err = net.Listen("tcp4", "0.0.0.0:32001"); return err }); err != nil {
		t.Fatal(err)
	}
	r := run(t, func(o *Options, _ *running) { o.NetNS = ns.Path() })
	r.store.Update(update(balancer("a", 1, 32001), local("a", 1), balancer("b", 2, 32002), local("b", 2)))
	r.answers(t, ns, "127.0.0.1:32002", http.StatusOK)
	r.pass(t, "a report", func() bool { return r.says("can't ask") > 0 })
	r.clock.Step(3 * healthRetry)
	r.answers(t, ns, "127.0.0.1:32002", http.StatusOK)
	all := r.logs.FilterMessageSnippet("can't ask").All()
	if fields := all[0].ContextMap(); len(all) != 1 || fields["service"] != "default/a" || fields["healthCheckNodePort"] != uint16(32001) {
		t.Errorf("reported %d times: %v", len(all), fields)
	}
	if len(r.kernels[model.IPv4].programmed()) != 2 {
		t.Error("the Services are not programmed for it")
	}
	if err := taken.Close(); err != nil {
		t.Fatal(err)
	}
	r.answers(t, ns, "127.0.0.1:32001", http.StatusOK)
	if r.says("can ask for the health of a Service now") != 1 {
		t.Errorf("said %v", r.logs.All())
	}
}

func TestHealthChecksAreAnsweredWhereNodePortsAre(t *testing.T) {
	ns := nstest.New(t)
	r := run(t, func(o *Options, _ *running) { o.NetNS = ns.Path() })
	node := func(addr string) Objects {
		return Objects{Nodes: map[string]*model.Node{"node": {Name: "node", Addrs: mustAddrs(addr)}}}
	}
	r.store.Update(node("192.0.2.1"))
	r.store.Update(update(balancer("a", 1, 32001), local("a", 1)))
	r.pass(t, "a report that the address is missing", func() bool { return r.says("can't ask") == 2 }) // and IPv6 has none
	ns.Run(t, "ip", "address", "add", "192.0.2.1/32", "dev", "lo")
	ns.Run(t, "ip", "address", "add", "192.0.2.2/32", "dev", "lo")
	r.answers(t, ns, "192.0.2.1:32001", http.StatusOK)
	r.answers(t, ns, "192.0.2.2:32001", 0)
	r.answers(t, ns, "127.0.0.1:32001", 0)
	r.store.Update(node("192.0.2.2"))
	r.answers(t, ns, "192.0.2.2:32001", http.StatusOK)
	r.answers(t, ns, "192.0.2.1:32001", 0)
}

func TestAProxyThatIsLongBehindIsUnhealthy(t *testing.T) {
	ns := nstest.New(t)
	r := run(t, func(o *Options, _ *running) { o.NetNS = ns.Path() })
	k := r.kernels[model.IPv4]
	r.store.Update(update(balancer("web", 1, 32001), local("web", 1)))
	r.answers(t, ns, "127.0.0.1:32001", http.StatusOK)
	r.clock.Step(time.Hour) // of nothing to do
	r.answers(t, ns, "127.0.0.1:32001", http.StatusOK)

	k.mu.Lock()
	k.fail = func(plan.Change) error { return syscall.ENOBUFS }
	k.mu.Unlock()
	r.store.Update(update(local("web", 1, 2)))
	r.pass(t, "a failure", func() bool { return r.Status().Families[model.IPv4].Err != nil })
	if got := ask(t, ns, "127.0.0.1:32001"); got.status != http.StatusOK {
		t.Errorf("soon after a failure: got %+v", got)
	}
	eventually(t, "a minute of failures", func() bool {
		r.clock.Step(time.Second)
		s := r.Status().Families[model.IPv4]
		return !s.Healthy(r.clock.Now())
	})
	got := r.answers(t, ns, "127.0.0.1:32001", http.StatusServiceUnavailable)
	const want = "{\n\t\"service\": {\n\t\t\"namespace\": \"default\",\n\t\t\"name\": \"web\"\n\t},\n\t\"localEndpoints\": 1,\n\t\"serviceProxyHealthy\": false\n}"
	if got.body != want {
		t.Errorf("got %s", got.body)
	}
	if s := r.Status().Families[model.IPv6]; !s.Healthy(r.clock.Now()) {
		t.Errorf("the other family: got %+v", s)
	}
	k.mu.Lock()
	k.fail = func(plan.Change) error { return nil }
	k.mu.Unlock()
	if got := r.answers(t, ns, "127.0.0.1:32001", http.StatusOK); got.header.Get("X-Load-Balancing-Endpoint-Weight") != "2" {
		t.Errorf("got %+v", got)
	}
}

func TestAServiceInQuarantineAnswersForItsLastGoodRules(t *testing.T) {
	ns := nstest.New(t)
	r := run(t, func(o *Options, r *running) {
		o.NetNS = ns.Path()
		r.kernels[model.IPv4].refuses = func(s *plan.Service) bool { return len(s.Ports[0].Local) > 1 }
	})
	r.store.Update(update(balancer("bad", 1, 32001), local("bad", 1), balancer("good", 2, 32002), local("good", 2)))
	r.answers(t, ns, "127.0.0.1:32001", http.StatusOK)
	r.store.Update(update(local("bad", 1, 3), balancer("good", 2, 32003)))
	r.answers(t, ns, "127.0.0.1:32003", http.StatusOK)
	r.pass(t, "quarantine", func() bool { return len(r.Status().Families[model.IPv4].Quarantined) == 1 })
	if got := r.answers(t, ns, "127.0.0.1:32001", http.StatusOK); got.header.Get("X-Load-Balancing-Endpoint-Weight") != "1" {
		t.Errorf("got %+v", got)
	}
}
