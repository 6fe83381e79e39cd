package conntrack

import (
	"cmp"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Sysctls are the kernel's settings of connection tracking that a Service proxy sees to, as kube-proxy does. A
// zero leaves the kernel's own.
type Sysctls struct {
	// MaxPerCore is how many connections are tracked for each processor, and Min how many at least; without
	// MaxPerCore, Min counts for nothing. A higher limit that is there stays.
	MaxPerCore, Min int
	// TCPEstablished, TCPCloseWait, UDP and UDPStream are how long a connection without packets is
	// remembered: one that is open, one that one side has closed, and flows that were not answered and that were.
	// Fractions of a second are cut off.
	TCPEstablished, TCPCloseWait, UDP, UDPStream time.Duration
	// TCPBeLiberal takes packets that are out of window for valid.
	TCPBeLiberal bool
}

// DefaultSysctls are those of KubeProxyConfiguration v1alpha1.
var DefaultSysctls = Sysctls{MaxPerCore: 32 << 10, Min: 128 << 10, TCPEstablished: 24 * time.Hour, TCPCloseWait: time.Hour}

// mostFlows caps what MaxPerCore comes to, as on machines with many processors it would take gigabytes. It is
// kube-proxy's.
const mostFlows = 1 << 20

// flowsPerBucket is how many connections share a bucket of the kernel's hash table at the most; kube-proxy's too.
const flowsPerBucket = 4

// sysctl is one setting, by its name below net.netfilter.
type sysctl struct {
	name  string
	value int
	// least says that a higher value is as good.
	least bool
}

// list returns what to set on a machine with so many processors.
func (s Sysctls) list(processors int) []sysctl {
	var out []sysctl
	if most := s.max(processors); most > 0 {
		out = append(out, sysctl{"nf_conntrack_max", most, true}, sysctl{"nf_conntrack_buckets", most / flowsPerBucket, true})
	}
	for _, t := range []struct {
		name string
		time.Duration
	}{
		{"nf_conntrack_tcp_timeout_established", s.TCPEstablished},
		{"nf_conntrack_tcp_timeout_close_wait", s.TCPCloseWait},
		{"nf_conntrack_udp_timeout", s.UDP},
		{"nf_conntrack_udp_timeout_stream", s.UDPStream},
	} {
		if t.Duration >= time.Second {
			out = append(out, sysctl{t.name, int(t.Duration / time.Second), false})
		}
	}
	if s.TCPBeLiberal {
		out = append(out, sysctl{"nf_conntrack_tcp_be_liberal", 1, false})
	}
	return out
}

func (s Sysctls) max(processors int) int {
	if s.MaxPerCore <= 0 {
		return 0
	}
	if scaled := s.MaxPerCore * processors; scaled < mostFlows {
		return max(scaled, s.Min)
	}
	return mostFlows
}

// parseCPUs counts the processors of a list such as "0-3,5", as the kernel writes it.
func parseCPUs(list string) (int, error) {
	n := 0
	for part := range strings.SplitSeq(strings.TrimSpace(list), ",") {
		first, last, _ := strings.Cut(part, "-")
		a, err := strconv.Atoi(first)
		if err != nil {
			return 0, fmt.Errorf("list of processors %q: %w", list, err)
		}
		b, err := strconv.Atoi(cmp.Or(last, first))
		if err != nil || b < a {
			return 0, fmt.Errorf("list of processors %q: %s is no range", list, part)
		}
		n += b - a + 1
	}
	return n, nil
}
