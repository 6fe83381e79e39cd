package conntrack

import (
	"slices"
	"testing"
	"time"
)

func TestTheTableHasRoomForEachProcessor(t *testing.T) {
	for _, c := range []struct {
		name       string
		sysctls    Sysctls
		processors int
		want       int
	}{
		{"few processors get the least", DefaultSysctls, 2, 131072},
		{"more get more", DefaultSysctls, 8, 262144},
		{"many get what a machine can bear", DefaultSysctls, 64, 1048576},
		{"none for each leaves the kernel's", Sysctls{Min: 131072}, 8, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			var got int
			for _, w := range c.sysctls.list(c.processors) {
				if w.name == "nf_conntrack_max" {
					got = w.value
				}
				if w.name == "nf_conntrack_buckets" && w.value*4 != got {
					t.Errorf("%d buckets for %d flows", w.value, got)
				}
			}
			if got != c.want {
				t.Errorf("got %d, want %d", got, c.want)
			}
		})
	}
}

func TestWhatIsZeroIsLeftToTheKernel(t *testing.T) {
	if got := (Sysctls{}).list(4); len(got) != 0 {
		t.Errorf("got %v", got)
	}
	got := Sysctls{UDP: 1500 * time.Millisecond, UDPStream: time.Minute, TCPBeLiberal: true}.list(4)
	want := []sysctl{{"nf_conntrack_udp_timeout", 1, false}, {"nf_conntrack_udp_timeout_stream", 60, false}, {"nf_conntrack_tcp_be_liberal", 1, false}}
	if !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestProcessorsAreCounted(t *testing.T) {
	for list, want := range map[string]int{"0\n": 1, "0-3": 4, "0-1,4,6-7\n": 5} {
		if got, err := parseCPUs(list); err != nil || got != want {
			t.Errorf("%q: got %d, %v, want %d", list, got, err, want)
		}
	}
	for _, list := range []string{"", "3-1", "a", "1-b"} {
		if got, err := parseCPUs(list); err == nil {
			t.Errorf("%q: got %d", list, got)
		}
	}
}
