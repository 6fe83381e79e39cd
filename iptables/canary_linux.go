package iptables

import (
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"unsafe"

	goiptables "github.com/coreos/go-iptables/iptables"
	"golang.org/x/sys/unix"

	"svcproxy/model"
)

// canaries looks at the canaries of all tables from time to time.
type canaries struct {
	kernel *kernel
	// seen are the sizes of the tables when their canaries were last found alive.
	seen map[string]tableSize
}

// dead returns the first table whose canary is gone, or "".
func (c *canaries) dead() (table string, err error) {
	for _, table := range tableNames {
		size, known, err := c.kernel.size(table)
		if err != nil {
			return "", err
		}
		if known && size == c.seen[table] {
			continue
		}
		alive, err := c.kernel.canary(table)
		if err != nil {
			return "", err
		}
		if !alive {
			delete(c.seen, table)
			return table, nil
		}
		c.seen[table] = size
	}
	return "", nil
}

// canary tells whether the canary of a table is alive.
func (k *kernel) canary(table string) (alive bool, err error) {
	err = k.do(func() error {
		rules, err := k.ipt.List(table, chainCanary)
		var failed *goiptables.Error
		if errors.As(err, &failed) && missing(failed) {
			return nil
		}
		// The first line declares the chain.
		alive = len(rules) > 1
		return err
	})
	if err != nil {
		return false, fmt.Errorf("table %s: chain %s: %w", table, chainCanary, k.explain(err))
	}
	return alive, nil
}

// missing tells whether iptables found no such chain. go-iptables knows only some of the words for it.
func missing(err *goiptables.Error) bool {
	return err.IsNotExist() || err.ExitStatus() == 1 && symptom(err.Error()) == nil
}

// tableSize is the number of entries in a table of the legacy kernel API, and their size in bytes.
type tableSize struct{ entries, bytes uint32 }

// tableInfo is struct ipt_getinfo, which equals ip6t_getinfo.
type tableInfo struct {
	name       [32]byte
	validHooks uint32
	hookEntry  [5]uint32
	underflow  [5]uint32
	tableSize
}

// size asks for the size of a table, which the legacy kernel API tells in microseconds. It spares the look
// at the canary, for which iptables reads the whole table: 190 MB of it with 10,000 Services of 10
// endpoints. On the nf_tables kernel API it is not known.
func (k *kernel) size(table string) (size tableSize, known bool, err error) {
	if !k.legacy {
		return tableSize{}, false, nil
	}
	domain, level := unix.AF_INET, unix.SOL_IP
	if k.family == model.IPv6 {
		domain, level = unix.AF_INET6, unix.SOL_IPV6
	}
	err = k.do(func() error {
		fd, err := unix.Socket(domain, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		const getInfo = 64 // IPT_SO_GET_INFO and IP6T_SO_GET_INFO
		var info tableInfo
		copy(info.name[:], table)
		length := uint32(unsafe.Sizeof(info))
		_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), uintptr(level), getInfo,
			uintptr(unsafe.Pointer(&info)), uintptr(unsafe.Pointer(&length)), 0)
		if errno != 0 {
			return errno
		}
		size = info.tableSize
		return nil
	})
	if err != nil {
		return tableSize{}, false, fmt.Errorf("%s: size of table %s: %w", k.family, table, err)
	}
	return size, true, nil
}

// isLegacy tells which kernel API a program uses, which go-iptables finds out and keeps to itself.
func isLegacy(binary string) (bool, error) {
	version, err := exec.Command(binary, "--version").Output()
	if err != nil {
		return false, fmt.Errorf("%s --version: %w", binary, err)
	}
	return !strings.Contains(string(version), "nf_tables"), nil
}
