package dns

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	mdns "github.com/miekg/dns"

	"svcproxy/model"
)

// checkedServices are of every kind that the specification knows.
func checkedServices() []Service {
	http := []model.ServicePort{{Name: "http", Protocol: model.TCP, Port: 80}}
	addr := netip.MustParseAddr
	return []Service{
		{Name: model.ServiceName{Namespace: "default", Name: "web"}, ClusterIPs: []netip.Addr{addr("10.96.0.1"), addr("fd00::1")}, Ports: http},
		{Name: model.ServiceName{Namespace: "default", Name: "db"}, Endpoints: []Endpoint{
			{Addr: addr("10.244.0.5"), Hostname: "db-0", Ports: http}, {Addr: addr("10.244.0.6"), Ports: http},
		}},
		{Name: model.ServiceName{Namespace: "shop", Name: "empty"}},
		{Name: model.ServiceName{Namespace: "shop", Name: "alias"}, ExternalName: "www.example."},
	}
}

// checkWith asks a server whose answers are changed by edit.
func checkWith(t *testing.T, edit func(r *mdns.Msg)) []Difference {
	t.Helper()
	zone, problems, err := NewZone(Config{Domain: "cluster.local"}, checkedServices())
	if err != nil || len(problems) > 0 {
		t.Fatal(problems, err)
	}
	server := startUpstream(t, func(w mdns.ResponseWriter, m *mdns.Msg) {
		r := respond(zone, nil, m, mdns.MaxMsgSize, 0)
		edit(r)
		_ = w.WriteMsg(r)
	})
	asked, differences, err := Check(t.Context(), zone, checkedServices(), CheckOptions{Server: server.addr})
	if err != nil || asked < 40 {
		t.Fatalf("%d questions, %v", asked, err)
	}
	return differences
}

func TestCheckFindsNothingWrongWithThisServer(t *testing.T) {
	if found := checkWith(t, func(*mdns.Msg) {}); len(found) > 0 {
		t.Errorf("found %+v", found)
	}
}

func TestCheckFindsWhatIsWrong(t *testing.T) {
	is := func(r *mdns.Msg, name string, qtype uint16) bool {
		return r.Question[0].Name == name && r.Question[0].Qtype == qtype
	}
	const web, db = "web.default.svc.cluster.local.", "db.default.svc.cluster.local."
	for what, c := range map[string]struct {
		name string
		edit func(r *mdns.Msg)
	}{
		"a missing address": {web, func(r *mdns.Msg) {
			if is(r, web, mdns.TypeAAAA) {
				r.Answer = nil
			}
		}},
		"a name that exists called one that does not": {web, func(r *mdns.Msg) {
			if is(r, web, mdns.TypeTXT) {
				r.Rcode = mdns.RcodeNameError
			}
		}},
		"a name that does not exist called one that does": {"empty.shop.svc.cluster.local.", func(r *mdns.Msg) {
			if is(r, "empty.shop.svc.cluster.local.", mdns.TypeA) {
				r.Rcode = mdns.RcodeSuccess
			}
		}},
		"a wrong port": {"_http._tcp." + web, func(r *mdns.Msg) {
			if is(r, "_http._tcp."+web, mdns.TypeSRV) {
				r.Answer[0].(*mdns.SRV).Port++
			}
		}},
		"a missing endpoint": {db, func(r *mdns.Msg) {
			if is(r, db, mdns.TypeA) {
				r.Answer = r.Answer[:1]
			}
		}},
		"a hostname that is not served": {"db-0." + db, func(r *mdns.Msg) {
			if is(r, "db-0."+db, mdns.TypeA) {
				r.Answer, r.Rcode = nil, mdns.RcodeNameError
			}
		}},
		"no reverse name": {"1.0.96.10.in-addr.arpa.", func(r *mdns.Msg) {
			if is(r, "1.0.96.10.in-addr.arpa.", mdns.TypePTR) {
				r.Answer, r.Rcode = nil, mdns.RcodeRefused
			}
		}},
		"another alias": {"alias.shop.svc.cluster.local.", func(r *mdns.Msg) {
			if is(r, "alias.shop.svc.cluster.local.", mdns.TypeA) {
				r.Answer[0].(*mdns.CNAME).Target = "evil.example."
			}
		}},
		"another version": {"dns-version.cluster.local.", func(r *mdns.Msg) {
			if is(r, "dns-version.cluster.local.", mdns.TypeTXT) {
				r.Answer[0].(*mdns.TXT).Txt = []string{"1.0.0"}
			}
		}},
		"no SOA with what does not exist": {"web.default.default.svc.cluster.local.", func(r *mdns.Msg) {
			if is(r, "web.default.default.svc.cluster.local.", mdns.TypeA) {
				r.Ns = nil
			}
		}},
	} {
		found := checkWith(t, c.edit)
		if !slices.ContainsFunc(found, func(d Difference) bool { return d.Name == c.name }) || len(found) > 2 {
			t.Errorf("%s: found %+v, want %s over UDP and TCP", what, found, c.name)
		}
	}
}

func TestCheckLeavesToTheServerWhatIsItsOwn(t *testing.T) {
	found := checkWith(t, func(r *mdns.Msg) {
		slices.Reverse(r.Answer)
		for _, rr := range r.Answer {
			rr.Header().Ttl = 77
			if srv, is := rr.(*mdns.SRV); is {
				srv.Weight, srv.Priority = 9, 9
				srv.Target = strings.Replace(srv.Target, "10-244-0-6.", "pod-xyz.", 1)
			}
			if ptr, is := rr.(*mdns.PTR); is {
				ptr.Ptr = strings.Replace(ptr.Ptr, "10-244-0-6.", "pod-xyz.", 1)
			}
		}
	})
	if len(found) > 0 {
		t.Errorf("found %+v", found)
	}
}

func TestCheckSaysThatAServerIsNotThere(t *testing.T) {
	zone, _, err := NewZone(Config{Domain: "cluster.local"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	_, _, err = Check(t.Context(), zone, nil, CheckOptions{Server: netip.MustParseAddrPort("127.0.0.1:1")})
	if err == nil || !strings.Contains(err.Error(), "127.0.0.1:1") {
		t.Errorf("got %v", err)
	}
}
