package escape

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"svcproxy/sandbox"
)

// hostSocketEnv names an abstract socket that the host listens on, hostKeyEnv the key
// of a shared memory of the host.
const (
	hostSocketEnv = "HOST_SOCKET"
	hostKeyEnv    = "HOST_KEY"
)

// networkAttack changes its network and looks for others'.
var networkAttack = register("network", func(a *attacker) {
	links, err := netlink.LinkList()
	var found []string
	for _, link := range links {
		found = append(found, link.Attrs().Name)
	}
	a.holds("see other interfaces", err == nil && strings.Join(found, " ") == "lo eth0", found)
	eth0, err := netlink.LinkByName("eth0")
	if err != nil {
		a.holds("find eth0", false, err)
		return
	}
	address, _ := netlink.ParseAddr("10.244.0.99/32")
	a.refused("add an address", netlink.AddrAdd(eth0, address), unix.EPERM)
	a.refused("take eth0 down", netlink.LinkSetDown(eth0), unix.EPERM)
	a.refused("add a route", netlink.RouteAdd(&netlink.Route{LinkIndex: eth0.Attrs().Index, Dst: address.IPNet}), unix.EPERM)
	a.refused("add an interface", netlink.LinkAdd(&netlink.Dummy{LinkAttrs: netlink.LinkAttrs{Name: "dummy7"}}), unix.EPERM)
	a.refused("move eth0 to where PID 1 is", netlink.LinkSetNsPid(eth0, 1), unix.EPERM)
	a.refused("make the link promiscuous", netlink.SetPromiscOn(eth0), unix.EPERM)
	a.refused("list the firewall", listFirewall(), unix.EPERM)
	sniffer, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW, 0)
	a.holds("a raw socket of its own network, which a default capability allows", err == nil, err)
	unix.Close(sniffer)
})

// listFirewall asks for nftables' tables (NFT_MSG_GETTABLE), which takes CAP_NET_ADMIN.
func listFirewall() error {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_NETFILTER)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	message := binary.NativeEndian.AppendUint32(nil, 20)
	message = binary.NativeEndian.AppendUint16(message, 10<<8|1)
	message = binary.NativeEndian.AppendUint16(message, unix.NLM_F_REQUEST|unix.NLM_F_DUMP)
	message = append(message, make([]byte, 12)...)
	if err := unix.Sendto(fd, message, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return err
	}
	answer := make([]byte, 4096)
	n, _, err := unix.Recvfrom(fd, answer, 0)
	if err == nil && n >= 20 && binary.NativeEndian.Uint16(answer[4:]) == unix.NLMSG_ERROR {
		if code := int32(binary.NativeEndian.Uint32(answer[16:])); code != 0 {
			return unix.Errno(-code)
		}
	}
	return err
}

// socketsAttack looks for what the host's processes share with each other by names that
// are no files.
var socketsAttack = register("sockets", func(a *attacker) {
	name := os.Getenv(hostSocketEnv)
	_, err := net.Dial("unix", name)
	a.refused("connect to the host's abstract socket "+name, err, unix.ECONNREFUSED)
	content, err := os.ReadFile("/proc/net/unix")
	a.holds("find the host's socket in /proc/net/unix", err == nil && !strings.Contains(string(content), name), string(content))
	var key int
	_, err = fmt.Sscan(os.Getenv(hostKeyEnv), &key)
	a.holds("know the key of the host's memory", err == nil, err)
	a.refused("attach to the host's shared memory", second(unix.SysvShmGet(key, 0, 0)), unix.ENOENT)
	a.refused("the host's shared memory by number", second(unix.SysvShmAttach(0, 0, 0)), unix.EINVAL)
	segments, err := os.ReadFile("/proc/sysvipc/shm")
	a.holds("list the host's shared memory", err != nil || strings.Count(string(segments), "\n") == 1, string(segments))
	a.holds("find the host's files in /dev/shm", len(names("/dev/shm")) == 0, names("/dev/shm"))
	a.holds("find the host's queues", len(names("/dev/mqueue")) == 0, names("/dev/mqueue"))
	a.holds("find the host's terminals", strings.Join(names("/dev/pts"), " ") == "ptmx", names("/dev/pts"))
})

func TestAttackerLeavesItsNetworkAsItIs(t *testing.T) {
	t.Parallel()
	p := newPrison(t, sandbox.PauseConfig{})
	p.holds(t, networkAttack)
	p.escapes(t, networkAttack, "add an address", "add an interface", "list the firewall", "make the link promiscuous")
}

func TestAttackerFindsNoNamesOfTheHost(t *testing.T) {
	t.Parallel()
	p := newPrison(t, sandbox.PauseConfig{})
	socket := "@svcproxy-escape-test"
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	const key = 0x65736361
	segment, err := unix.SysvShmGet(key, 4096, unix.IPC_CREAT|0o666)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if _, err := unix.SysvShmCtl(segment, unix.IPC_RMID, nil); err != nil {
			t.Error(err)
		}
	}()
	p.holds(t, socketsAttack, func(cfg *sandbox.ContainerConfig) {
		cfg.Env = append(cfg.Env, hostSocketEnv+"="+socket, fmt.Sprintf("%s=%d", hostKeyEnv, key))
	})
	// They are there for who is on the host.
	conn, err := net.Dial("unix", socket)
	if _, found := unix.SysvShmGet(key, 0, 0); err != nil || found != nil {
		t.Fatal(errors.Join(err, found))
	}
	conn.Close()
}
