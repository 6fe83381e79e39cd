package flows

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"svcproxy/conntrack"
	"svcproxy/model"
)

// Lifetime is how long the flows that Fill makes last, in seconds: longer than any test.
const Lifetime = 3600

// fillBatch is how many flows are made with one system call.
const fillBatch = 100

// Attributes of linux/netfilter/nfnetlink_conntrack.h.
const (
	ctaOriginal, ctaReply, ctaStatus, ctaTimeout, ctaZone = 1, 2, 3, 7, 18
	tupleIP, tupleProtocol                                = 1, 2
	seenReply, confirmed                                  = 1 << 1, 1 << 3 // linux/netfilter/nf_conntrack_common.h
)

// Fill makes flows in the calling thread's network namespace. Their IDs are the kernel's to choose. Of TCP it
// makes none.
func Fill(flows []conntrack.Flow) error {
	c, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		return err
	}
	defer c.Close()
	for batch := range slices.Chunk(flows, fillBatch) {
		messages := make([]netlink.Message, len(batch))
		for i := range batch {
			if messages[i], err = creation(&batch[i]); err != nil {
				return err
			}
		}
		messages[len(messages)-1].Header.Flags |= netlink.Acknowledge
		if _, err := c.SendMessages(messages); err != nil {
			return fmt.Errorf("make %d flows: %w", len(batch), err)
		}
		if _, err := c.Receive(); err != nil { // of the last, or the first that failed
			return fmt.Errorf("make %d flows like %s: %w", len(batch), batch[0], err)
		}
	}
	return nil
}

func creation(f *conntrack.Flow) (netlink.Message, error) {
	e := netlink.NewAttributeEncoder()
	e.ByteOrder = binary.BigEndian
	e.Nested(ctaOriginal, tuple(f.Protocol, f.Original))
	e.Nested(ctaReply, tuple(f.Protocol, f.Reply))
	e.Uint32(ctaStatus, seenReply|confirmed)
	e.Uint32(ctaTimeout, Lifetime)
	if f.Zone != 0 {
		e.Uint16(ctaZone, f.Zone)
	}
	attributes, err := e.Encode()
	family := byte(unix.AF_INET)
	if f.Original.Dest.Addr().Is6() {
		family = unix.AF_INET6
	}
	return netlink.Message{
		Header: netlink.Header{Type: unix.NFNL_SUBSYS_CTNETLINK << 8, Flags: netlink.Request | netlink.Create | netlink.Excl},
		Data:   append([]byte{family, 0, 0, 0}, attributes...),
	}, err
}

func tuple(p model.Protocol, t conntrack.Tuple) func(*netlink.AttributeEncoder) error {
	return func(e *netlink.AttributeEncoder) error {
		e.Nested(tupleIP, func(e *netlink.AttributeEncoder) error {
			first := uint16(1)
			if t.Source.Addr().Is6() {
				first = 3
			}
			e.Bytes(first, t.Source.Addr().AsSlice())
			e.Bytes(first+1, t.Dest.Addr().AsSlice())
			return nil
		})
		e.Nested(tupleProtocol, func(e *netlink.AttributeEncoder) error {
			e.Uint8(1, uint8(p))
			e.Uint16(2, t.Source.Port())
			e.Uint16(3, t.Dest.Port())
			return nil
		})
		return nil
	}
}

// Translated returns the UDP flow of a client to a frontend that leads to an endpoint.
func Translated(client, frontend, endpoint netip.AddrPort) conntrack.Flow {
	return conntrack.Flow{
		Protocol: model.UDP,
		Original: conntrack.Tuple{Source: client, Dest: frontend},
		Reply:    conntrack.Tuple{Source: endpoint, Dest: client},
	}
}
