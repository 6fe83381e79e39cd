package nftables

import (
	"context"
	"errors"
	"fmt"
	"os"

	nft "github.com/google/nftables"
	"github.com/mdlayher/netlink"
	"go.uber.org/zap"
	"golang.org/x/sys/unix"

	"svcproxy/model"
)

// Options tell where and for which family to work.
type Options struct {
	Family model.Family
	// NetNS is the path of a network namespace, whose use takes CAP_SYS_ADMIN; empty means that of the process,
	// for which CAP_NET_ADMIN is enough.
	NetNS string
	// Log may be nil.
	Log *zap.Logger
	// WriteBuffer fixes the size in bytes of the buffer that a transaction must fit into, which otherwise
	// grows as far as the kernel lets it.
	WriteBuffer int
}

// New returns a backend that has a connection to the kernel and has programmed nothing yet. It fails where
// the kernel has no nf_tables or does not allow its use.
func New(o Options) (*Backend, error) {
	k, err := openKernel(o)
	if err != nil {
		return nil, err
	}
	// A list that others' commits interrupted was a list all the same.
	if _, err := k.observeTable(); err != nil && !errors.Is(err, errInterrupted) && !errors.Is(err, unix.EINTR) {
		return nil, errors.Join(fmt.Errorf("list the tables of nf_tables: %w", err), k.close())
	}
	b := newBackend(o.Family, k, o.Log)
	k.opened = b.watcher.ignore
	b.watcher.init(o.Family, k.ns, k.port)
	return b, nil
}

// linux is a connection to the running kernel.
type linux struct {
	family      model.Family
	ns          *os.File
	writeBuffer int
	conn        *nft.Conn
	port        uint32
	// opened is told the port of each new connection.
	opened func(port uint32)
}

func openKernel(o Options) (*linux, error) {
	ns, err := openNetNS(o.NetNS)
	if err != nil {
		return nil, err
	}
	k := &linux{family: o.Family, ns: ns, writeBuffer: o.WriteBuffer}
	if err := k.reopen(); err != nil {
		return nil, errors.Join(err, closeNetNS(ns))
	}
	return k, nil
}

// openNetNS returns nil for the calling thread's namespace: sockets in another one take CAP_SYS_ADMIN to make.
func openNetNS(path string) (*os.File, error) {
	if path == "" {
		return nil, nil
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("open network namespace: %w", err)
	}
	return f, nil
}

// netNSFd returns the file descriptor that netlink packages take for a namespace, 0 for the thread's own.
func netNSFd(ns *os.File) int {
	if ns == nil {
		return 0
	}
	return int(ns.Fd())
}

func closeNetNS(ns *os.File) error {
	if ns == nil {
		return nil
	}
	return ns.Close()
}

func (k *linux) reopen() error {
	if k.conn != nil {
		if err := k.conn.CloseLasting(); err != nil {
			return fmt.Errorf("close netlink socket: %w", err)
		}
	}
	opts := []nft.ConnOption{nft.WithNetNSFd(netNSFd(k.ns)), nft.AsLasting()}
	if k.writeBuffer > 0 {
		opts = append(opts, nft.WithSockOptions(func(c *netlink.Conn) error { return c.SetWriteBuffer(k.writeBuffer) }))
	}
	conn, err := nft.New(opts...)
	if err != nil {
		return fmt.Errorf("open netlink socket: %w", err)
	}
	k.conn = conn
	if k.port, err = conn.GetPortID(); err != nil {
		return err
	}
	if k.opened != nil {
		k.opened(k.port)
	}
	return nil
}

func (k *linux) close() error {
	return errors.Join(k.conn.CloseLasting(), closeNetNS(k.ns))
}

// minCapacity in bytes fits into the buffer of a socket as the kernel makes it: net.core.wmem_default is
// 208 KiB unless somebody lowered it, and then halves of this are tried.
const minCapacity = 64 << 10

func (k *linux) capacity() int {
	if k.writeBuffer > 0 {
		return k.writeBuffer
	}
	return minCapacity
}

func (k *linux) generation() (uint32, error) {
	gen, err := k.conn.GetGen()
	if err != nil {
		return 0, fmt.Errorf("read the generation of the ruleset: %w", err)
	}
	return gen.ID, nil
}

func (k *linux) commit(ops []op) error {
	for _, o := range ops {
		if err := k.stage(o); err != nil {
			return errors.Join(err, k.reopen()) // which drops what was staged
		}
	}
	return k.conn.Flush()
}

func (k *linux) stage(o op) error {
	t := table(k.family)
	chain := &nft.Chain{Table: t, Name: o.chain.name}
	switch o.verb {
	case addTable:
		k.conn.AddTable(t)
	case deleteTable:
		k.conn.DelTable(t)
	case addSet:
		return k.conn.AddSet(encodeSet(k.family, o.set), nil)
	case deleteSet:
		k.conn.DelSet(&nft.Set{Table: t, Name: o.set.Name})
	case addChain:
		if h := o.chain.Hook; h.Type != "" {
			policy := nft.ChainPolicyAccept
			chain.Type, chain.Policy = nft.ChainType(h.Type), &policy
			chain.Hooknum, chain.Priority = nft.ChainHookRef(nft.ChainHook(h.Number)), nft.ChainPriorityRef(nft.ChainPriority(h.Priority))
		}
		k.conn.AddChain(chain)
		k.stageRules(chain, o.chain.Rules)
	case writeChain:
		k.conn.FlushChain(chain)
		k.stageRules(chain, o.chain.Rules)
	case flushChain:
		k.conn.FlushChain(chain)
	case deleteChain:
		k.conn.DelChain(chain)
	default:
		return k.stageElements(o)
	}
	return nil
}

func (k *linux) stageRules(c *nft.Chain, rules []Rule) {
	for _, r := range rules {
		k.conn.AddRule(&nft.Rule{Table: c.Table, Chain: c, Exprs: r.exprs(k.family)})
	}
}

func (k *linux) stageElements(o op) error {
	set := encodeSet(k.family, o.set)
	switch o.verb {
	case writeSet:
		k.conn.FlushSet(set)
	case replaceElements, deleteElements:
		els, err := encodeElements(o.set, o.elements, true)
		if err != nil {
			return err
		}
		if err := k.conn.SetDeleteElements(set, els); err != nil {
			return err
		}
	}
	if o.verb == deleteElements {
		return nil
	}
	els, err := encodeElements(o.set, o.elements, false)
	if err != nil {
		return err
	}
	return k.conn.SetAddElements(set, els)
}

// Observe reads what the kernel's table holds. If there is no table, the ruleset is empty.
func Observe(ctx context.Context, o Options) (*Ruleset, error) {
	k, err := openKernel(o)
	if err != nil {
		return nil, err
	}
	r, err := k.observe(ctx)
	return r, errors.Join(err, k.close())
}

// Cleanup deletes the table, if there is one.
func Cleanup(ctx context.Context, o Options) error {
	k, err := openKernel(o)
	if err != nil {
		return err
	}
	r, err := k.observeTable()
	if err == nil && r.Exists {
		if err = k.commit([]op{{verb: deleteTable}}); errors.Is(err, unix.ENOENT) {
			err = nil
		}
	}
	return errors.Join(err, k.close())
}
