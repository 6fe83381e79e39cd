package peer

import (
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"svcproxy/model"
	"svcproxy/test/world"
)

// A client whose TCP connection is refused learns it by an ICMP error from kube-proxy and from svcproxy's
// iptables mode, and by a TCP reset from its nftables mode.
func TestHowConnectionsAreRefused(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	s := subject{name: "nobody"}
	c.apply(t, s.service(1), nil)
	var wg sync.WaitGroup // each takes a second: the kernel tells of an ICMP error when it tries again
	check := func(n *node, to netip.AddrPort, want string) {
		wg.Go(func() {
			if got, err := refusal(n.Hosts[0], to); err != nil || got != want {
				t.Errorf("%s refuses %s by %q, not by %s: %v", n.name, to, got, want, err)
			}
		})
	}
	for _, p := range c.pairs(t, runs[0]) {
		for _, f := range model.Families {
			for _, to := range []netip.AddrPort{
				netip.AddrPortFrom(clusterIP(f, 1), servicePort),
				netip.AddrPortFrom(externalIP(f, 1), servicePort),
				netip.AddrPortFrom(world.NodeAddr(f), nodePort(1)),
			} {
				check(p.theirs, to, byICMP)
				check(p.ours, to, map[string]string{"iptables": byICMP, "nftables": byReset}[p.mode])
			}
		}
	}
	wg.Wait()
}

const byICMP, byReset = "an ICMP error", "a TCP reset"

// refusal tells how a connection was refused.
func refusal(from *world.Place, to netip.AddrPort) (how string, err error) {
	err = from.Do(func() error {
		domain, level, option := unix.AF_INET, unix.IPPROTO_IP, unix.IP_RECVERR
		if to.Addr().Is6() {
			domain, level, option = unix.AF_INET6, unix.IPPROTO_IPV6, unix.IPV6_RECVERR
		}
		fd, err := unix.Socket(domain, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		if err := unix.SetsockoptInt(fd, level, option, 1); err != nil {
			return err
		}
		if err := unix.Connect(fd, sockaddr(to)); !errors.Is(err, unix.ECONNREFUSED) {
			return fmt.Errorf("not refused: %w", err)
		}
		how, err = firstError(fd)
		return err
	})
	return how, err
}

// firstError reads why a connection was refused from the socket's queue of errors, which holds those that
// came by ICMP.
func firstError(fd int) (string, error) {
	control := make([]byte, 512)
	_, n, _, _, err := unix.Recvmsg(fd, nil, control, unix.MSG_ERRQUEUE|unix.MSG_DONTWAIT)
	if errors.Is(err, unix.EAGAIN) {
		return byReset, nil
	}
	if err != nil {
		return "", err
	}
	messages, err := unix.ParseSocketControlMessage(control[:n])
	if err != nil {
		return "", err
	}
	for _, m := range messages {
		if len(m.Data) < int(unsafe.Sizeof(unix.SockExtendedErr{})) {
			continue
		}
		const origin = unsafe.Offsetof(unix.SockExtendedErr{}.Origin)
		if o := m.Data[origin]; o == unix.SO_EE_ORIGIN_ICMP || o == unix.SO_EE_ORIGIN_ICMP6 {
			return byICMP, nil
		}
	}
	return "", errors.New("an error of another origin")
}

func sockaddr(a netip.AddrPort) unix.Sockaddr {
	if a.Addr().Is4() {
		return &unix.SockaddrInet4{Addr: a.Addr().As4(), Port: int(a.Port())}
	}
	return &unix.SockaddrInet6{Addr: a.Addr().As16(), Port: int(a.Port())}
}
