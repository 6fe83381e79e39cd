package flows

import (
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"svcproxy/conntrack"
	"svcproxy/netns"
	"svcproxy/test/nstest"
)

// The time-outs are those of the namespace; the size of the table is the machine's, and stays.
func TestSysctlsAreSetInTheNamespace(t *testing.T) {
	ns := nstest.New(t)
	s := conntrack.Sysctls{MaxPerCore: 1 << 20, TCPEstablished: 1234 * time.Second, TCPCloseWait: 56 * time.Second,
		UDP: 7 * time.Second, UDPStream: 89 * time.Second, TCPBeLiberal: true}
	most := read(t, ns.Path(), "nf_conntrack_max")
	err := s.Apply(ns.Path())
	if most < 1<<20 && (err == nil || !strings.Contains(err.Error(), "net.netfilter.nf_conntrack_max to 1048576")) {
		t.Errorf("got %v, want an error that names nf_conntrack_max", err)
	}
	if err != nil && strings.Contains(err.Error(), "timeout") {
		t.Error(err)
	}
	for name, want := range map[string]int{"nf_conntrack_max": most, "nf_conntrack_tcp_timeout_established": 1234,
		"nf_conntrack_tcp_timeout_close_wait": 56, "nf_conntrack_udp_timeout": 7, "nf_conntrack_udp_timeout_stream": 89,
		"nf_conntrack_tcp_be_liberal": 1} {
		if got := read(t, ns.Path(), name); got != want {
			t.Errorf("%s: got %d, want %d", name, got, want)
		}
	}
	if err := (conntrack.Sysctls{}).Apply(ns.Path()); err != nil {
		t.Error(err)
	}
}

func read(t *testing.T, path, name string) (value int) {
	t.Helper()
	err := netns.Do(path, func() error {
		text, err := os.ReadFile("/proc/sys/net/netfilter/" + name)
		if err == nil {
			value, err = strconv.Atoi(strings.TrimSpace(string(text)))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return value
}
