package iptables

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"

	goiptables "github.com/coreos/go-iptables/iptables"

	"svcproxy/model"
	"svcproxy/netns"
)

// lockWait is for how many seconds a program of iptables waits for the lock that the legacy kernel API
// needs.
const lockWait = 5

// kernel runs the programs of iptables in a network namespace.
type kernel struct {
	family model.Family
	netns  string
	binary string
	// legacy says that the programs use the legacy kernel API and not that of nf_tables.
	legacy bool
	ipt    *goiptables.IPTables
}

// openKernel finds the programs. It makes no tables in the kernel.
func openKernel(f model.Family, ns, binary string) (*kernel, error) {
	k := &kernel{family: f, netns: ns, binary: binary}
	if k.binary == "" {
		k.binary = "iptables"
	}
	proto := goiptables.ProtocolIPv4
	if f == model.IPv6 {
		k.binary = "ip6" + strings.TrimPrefix(k.binary, "ip")
		proto = goiptables.ProtocolIPv6
	}
	for _, program := range []string{k.binary, k.binary + "-save", k.binary + "-restore"} {
		if _, err := exec.LookPath(program); err != nil {
			return nil, fmt.Errorf("%w for %s: %w; the Debian package is iptables", ErrUnavailable, f, err)
		}
	}
	var err error
	if k.ipt, err = goiptables.New(goiptables.IPFamily(proto), goiptables.Path(k.binary), goiptables.Timeout(lockWait)); err != nil {
		return nil, fmt.Errorf("%w for %s: %s: %w", ErrUnavailable, f, k.binary, err)
	}
	if k.legacy, err = isLegacy(k.binary); err != nil {
		return nil, err
	}
	if f == model.IPv6 {
		if err := netns.CheckIPv6(ns); errors.Is(err, netns.ErrNoIPv6) {
			return nil, fmt.Errorf("%w for IPv6: %w", ErrUnavailable, err)
		} else if err != nil {
			return nil, err
		}
	}
	return k, nil
}

// probe asks for the tables, since a kernel may lack the module of the NAT table alone. Tables that are not
// there yet are made by that.
func (k *kernel) probe() error {
	return k.do(func() error {
		for _, table := range tableNames {
			if _, err := k.ipt.ChainExists(table, "OUTPUT"); err != nil {
				return fmt.Errorf("%s: table %s: %w", k.family, table, k.explain(err))
			}
		}
		return nil
	})
}

// explain gives an error of go-iptables its meaning.
func (k *kernel) explain(err error) error {
	if cause := symptom(err.Error()); cause != nil {
		return fmt.Errorf("%w (%w)", cause, err)
	}
	return err
}

// features reads what the ruleset depends on.
func (k *kernel) features() (features, error) {
	f := features{randomFully: k.ipt.HasRandomFully()}
	return f, k.do(func() error {
		text, err := os.ReadFile("/proc/sys/net/netfilter/nf_conntrack_tcp_be_liberal")
		f.liberal = err == nil && strings.TrimSpace(string(text)) != "0"
		return nil
	})
}

// routeLocalnet makes sure that packets to loopback addresses may be translated and leave the node.
func (k *kernel) routeLocalnet() error {
	const path = "/proc/sys/net/ipv4/conf/all/route_localnet"
	return k.do(func() error {
		if text, err := os.ReadFile(path); err != nil || strings.TrimSpace(string(text)) == "1" {
			return err
		}
		return os.WriteFile(path, []byte("1"), 0o644)
	})
}

// observe reads the ruleset back. Tables that are not there count as empty.
func (k *kernel) observe(ctx context.Context) (*Ruleset, error) {
	var text strings.Builder
	for _, table := range tableNames {
		if err := k.save(ctx, table, &text); err != nil {
			return nil, err
		}
	}
	return Parse(k.family, text.String())
}

// save writes what a table holds, in iptables-save's form. To read a table through the legacy kernel API
// would make it, so one that is not there is not asked for.
func (k *kernel) save(ctx context.Context, table string, to *strings.Builder) error {
	if k.legacy {
		there, err := k.loaded(table)
		if err != nil {
			return err
		}
		if !there {
			fmt.Fprintf(to, "*%s\nCOMMIT\n", table)
			return nil
		}
	}
	var stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, k.binary+"-save", "-t", table)
	cmd.Stdout, cmd.Stderr = to, &stderr
	if err := k.run(cmd); err != nil {
		err = fmt.Errorf("%s -t %s: %w: %s", cmd.Path, table, err, strings.TrimSpace(stderr.String()))
		return k.explain(err)
	}
	return nil
}

// loaded tells whether the legacy kernel API has a table in the network namespace.
func (k *kernel) loaded(table string) (there bool, err error) {
	path := "/proc/thread-self/net/ip_tables_names"
	if k.family == model.IPv6 {
		path = "/proc/thread-self/net/ip6_tables_names"
	}
	err = k.do(func() error {
		text, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			return nil // nor is there any table
		}
		there = slices.Contains(strings.Fields(string(text)), table)
		return err
	})
	if err != nil {
		return false, fmt.Errorf("which tables there are: %w", err)
	}
	return there, nil
}

// restore applies transactions, one for each COMMIT of the input.
func (k *kernel) restore(ctx context.Context, input []byte) error {
	var stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, k.binary+"-restore", "--wait", strconv.Itoa(lockWait), "--noflush")
	cmd.Stdin, cmd.Stderr = bytes.NewReader(input), &stderr
	err := k.run(cmd)
	var exit *exec.ExitError
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return fmt.Errorf("%s-restore: %w", k.binary, ctx.Err())
	case errors.As(err, &exit) && exit.Exited():
		return refused(fmt.Errorf("%s-restore: %w", k.binary, err), stderr.String(), input)
	}
	return fmt.Errorf("%s-restore: %w: %s", k.binary, err, strings.TrimSpace(stderr.String()))
}

// jump makes sure of a rule in a built-in chain, in front of the others.
func (k *kernel) jump(table string, j Jump) error {
	err := k.do(func() error {
		exists, err := k.ipt.ChainExists(table, j.Rule.Target)
		if err == nil && !exists {
			err = k.ipt.NewChain(table, j.Rule.Target)
		}
		if err != nil {
			return err
		}
		return k.ipt.InsertUnique(table, j.From, 1, j.Rule.args()...)
	})
	if err != nil {
		return fmt.Errorf("table %s: jump from %s to %s: %w", table, j.From, j.Rule.Target, k.explain(err))
	}
	return nil
}

// unjump deletes a rule that was read back from a built-in chain.
func (k *kernel) unjump(table string, j Jump) error {
	words, err := split(nil, j.written)
	if err == nil {
		err = k.do(func() error { return k.ipt.Delete(table, j.From, words[1:]...) })
	}
	if err != nil {
		return fmt.Errorf("table %s: delete the jump from %s to %s: %w", table, j.From, j.Rule.Target, k.explain(err))
	}
	return nil
}

// run runs a program in the network namespace. The kernel kills it when svcproxy dies: an iptables-restore that
// went on could write old rules over those of the next svcproxy.
func (k *kernel) run(cmd *exec.Cmd) error {
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return k.do(func() error {
		runtime.LockOSThread() // whose end is what gives the signal
		defer runtime.UnlockOSThread()
		return cmd.Run()
	})
}

// do calls f in the network namespace. Processes that f starts itself, and not through another goroutine,
// are in it too.
func (k *kernel) do(f func() error) error { return netns.Do(k.netns, f) }
