package conntrack

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"syscall"

	"svcproxy/model"
)

// The numbers of linux/netlink.h, linux/netfilter/nfnetlink.h and nfnetlink_conntrack.h that are spoken here.
// Attributes of other numbers are passed over.
const (
	headerSize     = 16 // struct nlmsghdr
	familySize     = 4  // struct nfgenmsg
	attributeSize  = 4  // struct nlattr
	errorType      = 2
	doneType       = 3
	overrunType    = 4
	interruptFlag  = 0x10 // NLM_F_DUMP_INTR
	requestFlag    = 0x1
	acknowledge    = 0x4
	dumpFlags      = 0x300
	newFlowType    = 1 << 8 // NFNL_SUBSYS_CTNETLINK, IPCTNL_MSG_CT_NEW
	getFlowsType   = 1<<8 | 1
	deleteFlowType = 1<<8 | 2

	attributeType = 0x3fff // without NLA_F_NESTED and NLA_F_NET_BYTEORDER
	nested        = 0x8000

	ctaOriginal, ctaReply, ctaID, ctaZone, ctaFilter = 1, 2, 12, 18, 25
	tupleIP, tupleProtocol, tupleZone                = 1, 2, 3
	ipSource4, ipDest4, ipSource6, ipDest6           = 1, 2, 3, 4
	protocolNumber, protocolSource, protocolDest     = 1, 2, 3
	filterOriginal, filterReply                      = 1, 2
	filterByProtocol                                 = 1 << 3 // CTA_FILTER_F_CTA_PROTO_NUM
)

var native = binary.NativeEndian

// errMalformed says that the kernel sent what nobody can read.
var errMalformed = errors.New("malformed netlink message")

// reading decodes the answer to a request for flows.
type reading struct {
	// interrupted says that some part was marked as incomplete.
	interrupted bool
}

// datagram hands the flows of one datagram to yield. It returns true when there is more to come, which there
// is not if yield returned false.
func (r *reading) datagram(b []byte, yield func(Flow) bool) (more bool, err error) {
	for len(b) > 0 {
		if len(b) < headerSize {
			return false, errMalformed
		}
		size := int(native.Uint32(b))
		if size < headerSize || size > len(b) {
			return false, errMalformed
		}
		kind, flags, body := native.Uint16(b[4:]), native.Uint16(b[6:]), b[headerSize:size]
		r.interrupted = r.interrupted || flags&interruptFlag != 0
		switch kind {
		case doneType, errorType:
			return false, r.end(body)
		case overrunType:
			return false, ErrInterrupted
		case newFlowType:
			if len(body) < familySize {
				return false, errMalformed
			}
			f, err := decodeFlow(body[familySize:])
			if err != nil {
				return false, err
			}
			if !yield(f) {
				return false, nil
			}
		}
		b = b[min(aligned(size), len(b)):]
	}
	return true, nil
}

// end returns the error with which an answer ends; its last message carries 0 or a negated number.
func (r *reading) end(body []byte) error {
	if len(body) >= 4 {
		if n := int32(native.Uint32(body)); n != 0 {
			return kernelError(n)
		}
	}
	if r.interrupted {
		return ErrInterrupted
	}
	return nil
}

func kernelError(negated int32) error {
	number := syscall.Errno(-negated)
	if number == syscall.EINTR || number == syscall.EAGAIN || number == syscall.ENOBUFS {
		return fmt.Errorf("%w: %w", ErrInterrupted, number)
	}
	return number
}

func aligned(n int) int { return (n + 3) &^ 3 }

// attributes walks over attributes, and returns errMalformed or the first error of visit.
func attributes(b []byte, visit func(kind uint16, value []byte) error) error {
	for len(b) > 0 {
		if len(b) < attributeSize {
			return errMalformed
		}
		size := int(native.Uint16(b))
		if size < attributeSize || size > len(b) {
			return errMalformed
		}
		if err := visit(native.Uint16(b[2:])&attributeType, b[attributeSize:size]); err != nil {
			return err
		}
		b = b[min(aligned(size), len(b)):]
	}
	return nil
}

func decodeFlow(b []byte) (f Flow, err error) {
	err = attributes(b, func(kind uint16, value []byte) (err error) {
		switch kind {
		case ctaOriginal:
			f.Original, err = f.decodeTuple(value)
		case ctaReply:
			f.Reply, err = f.decodeTuple(value)
		case ctaID:
			f.ID, err = number32(value)
		case ctaZone:
			err = f.decodeZone(value)
		}
		return err
	})
	return f, err
}

// decodeTuple returns a direction, and notes the protocol and the zone of that direction alone.
func (f *Flow) decodeTuple(b []byte) (t Tuple, err error) {
	var from, to netip.Addr
	var fromPort, toPort uint16
	address := func(kind uint16, value []byte) error {
		a, ok := netip.AddrFromSlice(value)
		switch kind {
		case ipSource4, ipSource6:
			from = a
		case ipDest4, ipDest6:
			to = a
		default:
			return nil
		}
		if !ok {
			return errMalformed
		}
		return nil
	}
	transport := func(kind uint16, value []byte) (err error) {
		switch kind {
		case protocolNumber:
			if len(value) != 1 {
				return errMalformed
			}
			f.Protocol = model.Protocol(value[0])
		case protocolSource:
			fromPort, err = number16(value)
		case protocolDest:
			toPort, err = number16(value)
		}
		return err
	}
	err = attributes(b, func(kind uint16, value []byte) error {
		switch kind {
		case tupleIP:
			return attributes(value, address)
		case tupleProtocol:
			return attributes(value, transport)
		case tupleZone:
			return f.decodeZone(value)
		}
		return nil
	})
	return Tuple{netip.AddrPortFrom(from, fromPort), netip.AddrPortFrom(to, toPort)}, err
}

// decodeZone notes a zone; at most one is not the default one.
func (f *Flow) decodeZone(b []byte) error {
	zone, err := number16(b)
	f.Zone |= zone
	return err
}

func number16(b []byte) (uint16, error) {
	if len(b) != 2 {
		return 0, errMalformed
	}
	return binary.BigEndian.Uint16(b), nil
}

func number32(b []byte) (uint32, error) {
	if len(b) != 4 {
		return 0, errMalformed
	}
	return binary.BigEndian.Uint32(b), nil
}

// deletions reads the answers to the deletion of flows whose messages were numbered from first to last, and
// ends with that to the last, which alone is answered whatever happens.
type deletions struct {
	first, last uint32
	// missing counts the flows that were gone already.
	missing int
	// failed is the first other error.
	failed error
}

func (d *deletions) datagram(b []byte) (more bool, err error) {
	for len(b) > 0 {
		if len(b) < headerSize+4 {
			return false, errMalformed
		}
		size := int(native.Uint32(b))
		if size < headerSize+4 || size > len(b) || native.Uint16(b[4:]) != errorType {
			return false, errMalformed
		}
		of := native.Uint32(b[8:])
		if of < d.first || of > d.last {
			return false, fmt.Errorf("%w: an answer to something else", errMalformed)
		}
		switch n := int32(native.Uint32(b[headerSize:])); {
		case n == 0:
		case syscall.Errno(-n) == syscall.ENOENT:
			d.missing++
		case d.failed == nil:
			d.failed = syscall.Errno(-n)
		}
		if of == d.last {
			return false, nil
		}
		b = b[min(aligned(size), len(b)):]
	}
	return true, nil
}

// message appends messages and attributes to bytes.
type message []byte

// begin appends the header of a message, whose size end fills in.
func (m *message) begin(kind, flags uint16, sequence uint32, f model.Family) (at int) {
	at = len(*m)
	*m = native.AppendUint32(*m, 0)
	*m = native.AppendUint16(*m, kind)
	*m = native.AppendUint16(*m, flags)
	*m = native.AppendUint32(*m, sequence)
	*m = native.AppendUint32(*m, 0)
	*m = append(*m, addressFamily(f), 0, 0, 0)
	return at
}

func (m *message) end(at int) { native.PutUint32((*m)[at:], uint32(len(*m)-at)) }

// addressFamily returns AF_INET or AF_INET6.
func addressFamily(f model.Family) byte {
	if f == model.IPv4 {
		return 2
	}
	return 10
}

// attribute appends an attribute with that value.
func (m *message) attribute(kind uint16, value ...byte) {
	*m = native.AppendUint16(*m, uint16(attributeSize+len(value)))
	*m = native.AppendUint16(*m, kind)
	*m = append(*m, value...)
	for len(*m)%4 != 0 {
		*m = append(*m, 0)
	}
}

// nest appends an attribute that holds those that fill appends.
func (m *message) nest(kind uint16, fill func()) {
	at := len(*m)
	m.attribute(kind | nested)
	fill()
	native.PutUint16((*m)[at:], uint16(len(*m)-at))
}

func (m *message) tuple(kind uint16, p model.Protocol, t Tuple) {
	source, dest := uint16(ipSource4), uint16(ipDest4)
	if t.Source.Addr().Is6() {
		source, dest = ipSource6, ipDest6
	}
	m.nest(kind, func() {
		m.nest(tupleIP, func() {
			m.attribute(source, t.Source.Addr().AsSlice()...)
			m.attribute(dest, t.Dest.Addr().AsSlice()...)
		})
		m.nest(tupleProtocol, func() {
			m.attribute(protocolNumber, byte(p))
			m.attribute(protocolSource, byte(t.Source.Port()>>8), byte(t.Source.Port()))
			m.attribute(protocolDest, byte(t.Dest.Port()>>8), byte(t.Dest.Port()))
		})
	})
}

// listMessage asks for the flows of a family, and, if filtered, of the protocol alone.
func listMessage(f model.Family, p model.Protocol, filtered bool) message {
	var m message
	at := m.begin(getFlowsType, requestFlag|dumpFlags, 1, f)
	if filtered {
		m.nest(ctaOriginal, func() {
			m.nest(tupleProtocol, func() { m.attribute(protocolNumber, byte(p)) })
		})
		m.nest(ctaFilter, func() {
			m.attribute(filterOriginal, native.AppendUint32(nil, filterByProtocol)...)
			m.attribute(filterReply, native.AppendUint32(nil, 0)...)
		})
	}
	m.end(at)
	return m
}

// deleteMessages asks to delete flows of the default zone by the way of their answers and by ID. The kernel makes
// the ID from the way of the first packet and from where it keeps the entry, so that a new flow of the same client
// may have the same one; its answers then come from elsewhere. Without a tuple the kernel would delete all flows.
func deleteMessages(m message, f model.Family, flows []Flow, first uint32) message {
	for i := range flows {
		flags := uint16(requestFlag)
		if i == len(flows)-1 {
			flags |= acknowledge
		}
		at := m.begin(deleteFlowType, flags, first+uint32(i), f)
		m.tuple(ctaReply, flows[i].Protocol, flows[i].Reply)
		id := flows[i].ID
		m.attribute(ctaID, byte(id>>24), byte(id>>16), byte(id>>8), byte(id))
		m.end(at)
	}
	return m
}
