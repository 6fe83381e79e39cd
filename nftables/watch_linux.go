package nftables

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
	"os"
	"sync"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"svcproxy/model"
)

// watchBuffer is the size in bytes of the buffer for notifications, as far as the kernel lets it grow.
const watchBuffer = 16 << 20

// watcher tells others' commits from the backend's own, by the port of the socket that they came from.
type watcher struct {
	family model.Family
	ns     *os.File

	mu   sync.Mutex
	own  uint32
	conn *netlink.Conn
}

func (w *watcher) init(f model.Family, ns *os.File, own uint32) { w.family, w.ns, w.own = f, ns, own }

// ignore makes a port the backend's own.
func (w *watcher) ignore(port uint32) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.own = port
	if w.conn != nil {
		// What the filter lets through by mistake is only looked at and dropped.
		_ = w.filter()
	}
}

// filter has the kernel drop notifications of the backend's own commits, which can be too many for the
// buffer. All messages of one datagram come from one commit.
func (w *watcher) filter() error {
	port := w.own
	if binary.NativeEndian.Uint16([]byte{1, 0}) == 1 {
		port = bits.ReverseBytes32(port) // BPF loads in network order
	}
	prog, err := bpf.Assemble([]bpf.Instruction{
		bpf.LoadAbsolute{Off: 12, Size: 4}, // nlmsghdr.nlmsg_pid
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: port, SkipTrue: 1},
		bpf.RetConstant{Val: 1<<32 - 1},
		bpf.RetConstant{Val: 0},
	})
	if err != nil {
		return err
	}
	return w.conn.SetBPF(prog)
}

func (w *watcher) isOwn(port uint32) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return port == w.own
}

// open subscribes to notifications.
func (w *watcher) open() (*netlink.Conn, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	conn, err := netlink.Dial(unix.NETLINK_NETFILTER, &netlink.Config{NetNS: netNSFd(w.ns), MessageBufferSize: readBuffer})
	if err != nil {
		return nil, fmt.Errorf("open netlink socket for notifications: %w", err)
	}
	w.conn = conn
	if err := errors.Join(conn.SetReadBuffer(watchBuffer), w.filter(), conn.JoinGroup(unix.NFNLGRP_NFTABLES)); err != nil {
		w.conn = nil
		return nil, errors.Join(fmt.Errorf("subscribe to notifications: %w", err), conn.Close())
	}
	return conn, nil
}

func (w *watcher) close() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	conn := w.conn
	w.conn = nil
	return conn.Close()
}

// Watch calls drifted when another process commits a change of the table, once for each commit, and when
// notifications were lost, so that there may have been one. It returns nil when ctx ends.
func (b *Backend) Watch(ctx context.Context, drifted func(what string)) error {
	conn, err := b.watcher.open()
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	err = b.watcher.read(ctx, conn, drifted)
	return errors.Join(err, b.watcher.close())
}

func (w *watcher) read(ctx context.Context, conn *netlink.Conn, drifted func(what string)) error {
	var seen commit
	for {
		msgs, err := conn.Receive()
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, unix.ENOBUFS):
			seen = commit{}
			drifted("notifications were lost")
			continue
		case err != nil:
			return fmt.Errorf("receive notifications: %w", err)
		}
		for _, m := range msgs {
			if what := w.see(&seen, m); what != "" {
				drifted(what)
			}
		}
	}
}

// commit collects the notifications of one commit, which a new generation ends.
type commit struct {
	first string
	n     int
}

// see takes in a notification and returns what a commit of somebody else's did to the table, when it is
// complete.
func (w *watcher) see(c *commit, m netlink.Message) (what string) {
	kind := int(m.Header.Type & 0xff)
	if m.Header.Type>>8 != unix.NFNL_SUBSYS_NFTABLES || w.isOwn(m.Header.PID) {
		return ""
	}
	if kind == unix.NFT_MSG_NEWGEN {
		if c.n > 0 {
			what = fmt.Sprintf("%s, %d changes by %s", c.first, c.n, author(m))
		}
		*c = commit{}
		return what
	}
	if f, ok := familyOf(m); !ok || f != w.family {
		return ""
	}
	table, object := names(m)
	if table != TableName {
		return ""
	}
	if c.n++; c.n == 1 {
		c.first = action(kind, object)
	}
	return ""
}

// names returns the table that a notification is about, and the chain or set. All kinds of objects have
// them as attributes 1 and 2.
func names(m netlink.Message) (table, object string) {
	// A notification that cannot be read names no table of svcproxy's.
	_ = attrs(body(m), func(ad attr) error {
		switch ad.Type() {
		case 1:
			table = ad.String()
		case 2:
			object = ad.String()
		}
		return nil
	})
	return table, object
}

// action describes a notification.
func action(kind int, object string) string {
	switch kind {
	case unix.NFT_MSG_NEWTABLE:
		return "table changed"
	case unix.NFT_MSG_DELTABLE:
		return "table deleted"
	case unix.NFT_MSG_NEWCHAIN:
		return "chain changed"
	case unix.NFT_MSG_DELCHAIN:
		return "chain deleted"
	case unix.NFT_MSG_NEWRULE:
		return "rule added to chain " + object
	case unix.NFT_MSG_DELRULE:
		return "rule deleted from chain " + object
	case unix.NFT_MSG_NEWSET:
		return "set " + object + " added"
	case unix.NFT_MSG_DELSET:
		return "set " + object + " deleted"
	case unix.NFT_MSG_NEWSETELEM:
		return "element added to " + object
	case unix.NFT_MSG_DELSETELEM:
		return "element deleted from " + object
	}
	return fmt.Sprintf("notification %d", kind)
}

// author names the process that made a generation.
func author(m netlink.Message) string {
	name, pid := "an unknown process", uint32(0)
	_ = attrs(body(m), func(ad attr) error {
		switch ad.Type() {
		case unix.NFTA_GEN_PROC_NAME:
			name = ad.String()
		case unix.NFTA_GEN_PROC_PID:
			pid = ad.Uint32()
		}
		return nil
	})
	return fmt.Sprintf("%s (process %d)", name, pid)
}
