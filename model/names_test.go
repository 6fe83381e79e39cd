package model

import "testing"

// The names are those that kube-proxy gives the same Service and endpoints, seen on a kind cluster.
func TestChainNamesAreKubeProxys(t *testing.T) {
	dns := ServiceName{"kube-system", "kube-dns"}
	for _, c := range []struct {
		port           ServicePortName
		number         string
		svc, sep, sep2 string
	}{
		{ServicePortName{dns, "dns-tcp", TCP}, "53", "KUBE-SVC-ERIFXISQEP7F7OF4", "KUBE-SEP-ZXMNUKOKXUTL2MK2", "KUBE-SEP-SF3LG62VAE5ALYDV"},
		{ServicePortName{dns, "dns", UDP}, "53", "KUBE-SVC-TCOU7JCQXEZGVUNU", "KUBE-SEP-6E7XQMQ4RAYOWTTM", "KUBE-SEP-WXWGHGKZOCNYRYI7"},
		{ServicePortName{dns, "metrics", TCP}, "9153", "KUBE-SVC-JD5MR3NA4I4DYORP", "KUBE-SEP-ZP3FB6NMPNCO4VBJ", "KUBE-SEP-PUHFDAMRBZWCPADU"},
	} {
		if got := ServiceChain(c.port); got != c.svc {
			t.Errorf("chain of %v: got %s, want %s", c.port, got, c.svc)
		}
		if got := EndpointChain(c.port, "10.244.0.3:"+c.number); got != c.sep {
			t.Errorf("chain of %v at .3: got %s, want %s", c.port, got, c.sep)
		}
		if got := EndpointChain(c.port, "10.244.0.4:"+c.number); got != c.sep2 {
			t.Errorf("chain of %v at .4: got %s, want %s", c.port, got, c.sep2)
		}
	}
}

func TestUnnamedPortHasNoColon(t *testing.T) {
	n := ServicePortName{Service: ServiceName{"default", "web"}, Protocol: TCP}
	if n.String() != "default/web" {
		t.Errorf("got %q", n)
	}
}
