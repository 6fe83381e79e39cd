package nftables

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"fmt"
	"strings"

	"github.com/google/nftables/expr"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"svcproxy/model"
)

// attributes of nf_tables that x/sys lacks.
const (
	setElemExpressions = 0x11
	setConcatFlag      = 0x80
	setElemCatchall    = 0x2
	setElemKeyEnd      = 0xa

	// learned are the flags of a map that rules fill.
	learned = unix.NFT_SET_TIMEOUT | unix.NFT_SET_EVAL
)

// attr is a netlink attribute, whose bytes are those of the message.
type attr struct {
	kind uint16
	data []byte
}

func (a attr) Type() uint16  { return a.kind }
func (a attr) Bytes() []byte { return a.data }

// String returns the attribute as text, without the zero byte that ends it.
func (a attr) String() string { return string(bytes.TrimSuffix(a.data, []byte{0})) }

// Uint32 returns a number, in network order as all those of nf_tables, or 0 if the length is wrong.
func (a attr) Uint32() uint32 {
	if len(a.data) != 4 {
		return 0
	}
	return binary.BigEndian.Uint32(a.data)
}

// attrs goes through the attributes of a netlink message's body or of a nested attribute. A set of a million
// elements has several million: this allocates nothing and copies nothing.
func attrs(b []byte, each func(a attr) error) error {
	const header = 4
	for len(b) >= header {
		size := int(binary.NativeEndian.Uint16(b))
		if size < header || size > len(b) {
			return fmt.Errorf("netlink attribute of %d bytes in %d", size, len(b))
		}
		kind := binary.NativeEndian.Uint16(b[2:]) &^ (unix.NLA_F_NESTED | unix.NLA_F_NET_BYTEORDER)
		if err := each(attr{kind, b[header:size]}); err != nil {
			return err
		}
		b = b[min(len(b), (size+3)&^3):]
	}
	return nil
}

// body returns the attributes of an nf_tables message, behind its 4 bytes of header.
func body(m netlink.Message) []byte {
	if len(m.Data) < 4 {
		return nil
	}
	return m.Data[4:]
}

// parseChain reads a chain without its rules.
func parseChain(m netlink.Message) (table, name string, c Chain, err error) {
	err = attrs(body(m), func(ad attr) error {
		switch ad.Type() {
		case unix.NFTA_CHAIN_TABLE:
			table = ad.String()
		case unix.NFTA_CHAIN_NAME:
			name = ad.String()
		case unix.NFTA_CHAIN_TYPE:
			c.Hook.Type = ad.String()
		case unix.NFTA_CHAIN_POLICY:
			c.Hook.Drop = ad.Uint32() == 0 // NF_DROP
		case unix.NFTA_CHAIN_HOOK:
			return attrs(ad.Bytes(), func(ad attr) error {
				switch ad.Type() {
				case unix.NFTA_HOOK_HOOKNUM:
					c.Hook.Number = ad.Uint32()
				case unix.NFTA_HOOK_PRIORITY:
					c.Hook.Priority = int32(ad.Uint32())
				}
				return nil
			})
		}
		return nil
	})
	return table, name, c, err
}

// parseSet reads a set without its elements. A kind of set that svcproxy never makes has a flaw.
func parseSet(m netlink.Message) (s *Set, flaw string, err error) {
	s = &Set{Elements: map[string]Element{}}
	var flags uint32
	err = attrs(body(m), func(ad attr) error {
		switch ad.Type() {
		case unix.NFTA_SET_NAME:
			s.Name = ad.String()
		case unix.NFTA_SET_FLAGS:
			flags = ad.Uint32()
		case unix.NFTA_SET_KEY_LEN:
			s.KeyLen = ad.Uint32()
		case unix.NFTA_SET_DATA_TYPE:
			s.Verdict = ad.Uint32() == unix.NFT_DATA_VERDICT
		case unix.NFTA_SET_DATA_LEN:
			s.DataLen = ad.Uint32()
		case unix.NFTA_SET_DESC:
			return attrs(ad.Bytes(), func(ad attr) error {
				if ad.Type() == unix.NFTA_SET_DESC_SIZE {
					s.Size = ad.Uint32()
				}
				return nil
			})
		}
		return nil
	})
	s.Map = flags&unix.NFT_SET_MAP != 0
	s.Ranges = flags&unix.NFT_SET_INTERVAL != 0 && flags&setConcatFlag != 0
	s.Interval = flags&unix.NFT_SET_INTERVAL != 0 && !s.Ranges
	s.Learned = flags&learned == learned
	if s.Verdict {
		s.DataLen = 0
	}
	known := uint32(unix.NFT_SET_MAP | unix.NFT_SET_INTERVAL | setConcatFlag)
	if s.Learned && s.Name == affinityMap {
		known |= learned
	}
	if rest := flags &^ known; rest != 0 {
		flaw = fmt.Sprintf("set %s has flags %#x", s.Name, rest)
	}
	return s, flaw, err
}

// rawElement is an element as the kernel reports it.
type rawElement struct {
	KeyedElement
	end      bool
	catchall bool
}

// parseElements reads the elements in one message of a set's dump.
func parseElements(m netlink.Message, spec SetSpec, each func(rawElement)) error {
	return attrs(body(m), func(ad attr) error {
		if ad.Type() != unix.NFTA_SET_ELEM_LIST_ELEMENTS {
			return nil
		}
		return attrs(ad.Bytes(), func(ad attr) error {
			el, err := parseElement(ad.Bytes(), spec)
			if err == nil {
				each(el)
			}
			return err
		})
	})
}

// parseElement reads an element. What svcproxy never gives one goes into its data, so that it differs from every
// element that svcproxy makes; so does a time-out, which only learned elements have.
func parseElement(b []byte, spec SetSpec) (el rawElement, err error) {
	var odd []string
	var last string
	err = attrs(b, func(ad attr) (err error) {
		switch ad.Type() {
		case unix.NFTA_SET_ELEM_KEY:
			el.Key, err = dataValue(ad.Bytes())
		case setElemKeyEnd:
			last, err = dataValue(ad.Bytes())
		case unix.NFTA_SET_ELEM_DATA:
			if spec.Verdict {
				el.Data, err = dataVerdict(ad.Bytes())
			} else {
				el.Data, err = dataValue(ad.Bytes())
			}
		case unix.NFTA_SET_ELEM_FLAGS:
			flags := ad.Uint32()
			el.end = flags&unix.NFT_SET_ELEM_INTERVAL_END != 0
			el.catchall = flags&setElemCatchall != 0
		case unix.NFTA_SET_ELEM_USERDATA:
			el.Comment = userComment(ad.Bytes())
		case unix.NFTA_SET_ELEM_TIMEOUT, unix.NFTA_SET_ELEM_EXPR, unix.NFTA_SET_ELEM_OBJREF, setElemExpressions:
			odd = append(odd, fmt.Sprintf("attribute %d", ad.Type()))
		}
		return err
	})
	if spec.Ranges {
		el.Key += cmp.Or(last, el.Key)
	}
	if len(odd) > 0 && !spec.Learned {
		el.Data += " with " + strings.Join(odd, ", ")
	}
	return el, err
}

func dataValue(b []byte) (out string, err error) {
	err = attrs(b, func(ad attr) error {
		if ad.Type() == unix.NFTA_DATA_VALUE {
			out = string(ad.Bytes())
		}
		return nil
	})
	return out, err
}

func dataVerdict(b []byte) (out string, err error) {
	err = attrs(b, func(ad attr) error {
		if ad.Type() != unix.NFTA_DATA_VERDICT {
			return nil
		}
		out, err = verdictOf(ad.Bytes())
		return err
	})
	return out, err
}

func verdictOf(b []byte) (string, error) {
	var kind expr.VerdictKind
	var chain string
	err := attrs(b, func(ad attr) error {
		switch ad.Type() {
		case unix.NFTA_VERDICT_CODE:
			kind = expr.VerdictKind(int32(ad.Uint32()))
		case unix.NFTA_VERDICT_CHAIN:
			chain = ad.String()
		}
		return nil
	})
	return verdictText(kind, chain), err
}

// userComment returns the comment in an element's user data, which anybody may have written.
func userComment(b []byte) string {
	for len(b) >= 2 && len(b) >= 2+int(b[1]) {
		kind, value := b[0], b[2:2+int(b[1])]
		if kind == 0 { // NFTNL_UDATA_SET_ELEM_COMMENT
			return strings.TrimSuffix(string(value), "\x00")
		}
		b = b[2+len(value):]
	}
	return ""
}

// joinIntervals makes intervals of the ends that the kernel reports, sorted by their keys, of equal keys the
// one that ends an interval first. nft writes an end at 0 too, which ends nothing.
func joinIntervals(ends []rawElement) map[string]Element {
	out := map[string]Element{}
	open, isOpen := "", false
	for _, e := range ends {
		if isOpen {
			out[open] = Element{Data: e.Key}
		}
		if open, isOpen = e.Key, !e.end; isOpen {
			out[open] = Element{}
		}
	}
	return out
}

// parseRule reads a rule and the chain it is in.
func parseRule(f model.Family, m netlink.Message) (chain string, r Rule, err error) {
	var found []any
	err = attrs(body(m), func(ad attr) error {
		switch ad.Type() {
		case unix.NFTA_RULE_CHAIN:
			chain = ad.String()
		case unix.NFTA_RULE_EXPRESSIONS:
			return attrs(ad.Bytes(), func(ad attr) error {
				e, err := parseExpr(f, ad.Bytes())
				found = append(found, e)
				return err
			})
		}
		return nil
	})
	return chain, recognise(f, found), err
}

// splitExpr returns an expression's name and its attributes.
func splitExpr(b []byte) (name string, data []byte, err error) {
	err = attrs(b, func(ad attr) error {
		switch ad.Type() {
		case unix.NFTA_EXPR_NAME:
			name = ad.String()
		case unix.NFTA_EXPR_DATA:
			data = ad.Bytes()
		}
		return nil
	})
	return name, data, err
}

// parseExpr reads one expression, which is a string if svcproxy uses none of its kind.
func parseExpr(f model.Family, b []byte) (any, error) {
	name, data, err := splitExpr(b)
	if err != nil {
		return nil, err
	}
	if name == "byteorder" {
		return parseByteorder(data)
	}
	e := newExpr(name, data)
	if e == nil {
		return name, nil
	}
	if err := expr.Unmarshal(layoutOf(f).family, data, e); err != nil {
		return nil, fmt.Errorf("expression %s: %w", name, err)
	}
	return normal(e), nil
}

// parseByteorder reads what google/nftables only writes.
func parseByteorder(data []byte) (any, error) {
	e := &expr.Byteorder{}
	err := attrs(data, func(ad attr) error {
		switch ad.Type() {
		case unix.NFTA_BYTEORDER_SREG:
			e.SourceRegister = ad.Uint32()
		case unix.NFTA_BYTEORDER_DREG:
			e.DestRegister = ad.Uint32()
		case unix.NFTA_BYTEORDER_OP:
			e.Op = expr.ByteorderOp(ad.Uint32())
		case unix.NFTA_BYTEORDER_LEN:
			e.Len = ad.Uint32()
		case unix.NFTA_BYTEORDER_SIZE:
			e.Size = ad.Uint32()
		}
		return nil
	})
	return e, err
}

func newExpr(name string, data []byte) expr.Any {
	switch name {
	case "payload":
		return &expr.Payload{}
	case "meta":
		return &expr.Meta{}
	case "lookup":
		return &expr.Lookup{}
	case "numgen":
		return &expr.Numgen{}
	case "nat":
		return &expr.NAT{}
	case "cmp":
		return &expr.Cmp{}
	case "bitwise":
		return &expr.Bitwise{}
	case "ct":
		return &expr.Ct{}
	case "masq":
		return &expr.Masq{}
	case "reject":
		return &expr.Reject{}
	case "fib":
		return &expr.Fib{}
	case "dynset":
		return &expr.Dynset{}
	case "immediate":
		if isVerdict(data) {
			return &expr.Verdict{}
		}
	}
	return nil
}

// isVerdict tells whether an immediate expression is a verdict.
func isVerdict(immediate []byte) bool {
	found := false
	err := attrs(immediate, func(ad attr) error {
		if ad.Type() == unix.NFTA_IMMEDIATE_DREG {
			found = ad.Uint32() == unix.NFT_REG_VERDICT
		}
		return nil
	})
	return err == nil && found
}

// normal takes away what the kernel adds to an expression.
func normal(e expr.Any) expr.Any {
	nat, ok := e.(*expr.NAT)
	if !ok {
		return e
	}
	if nat.RegAddrMax == nat.RegAddrMin {
		nat.RegAddrMax = 0
	}
	if nat.RegProtoMax == nat.RegProtoMin {
		nat.RegProtoMax = 0
	}
	if nat.RegProtoMin != 0 {
		nat.Specified = false
	}
	return nat
}
