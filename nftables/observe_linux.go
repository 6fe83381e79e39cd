package nftables

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"svcproxy/model"
)

// errInterrupted reports that somebody committed while a dump was read.
var errInterrupted = errors.New("the ruleset changed while it was read")

// readTries is how often a dump that was interrupted is read again.
const readTries = 20

// observe reads the table at one generation of the ruleset. All tables of a network namespace share the
// generation, so that commits to others' may interrupt every read of a large table: two interrupted reads in
// a row that agree are taken for right.
func (k *linux) observe(ctx context.Context) (*Ruleset, error) {
	var last *Ruleset
	for try := 0; ; try++ {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		r, err := k.observeOnce()
		interrupted := errors.Is(err, errInterrupted)
		if interrupted && r != nil && last != nil && r.Equal(last) {
			return r, nil
		}
		again := interrupted || errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EINTR)
		if !again || try == readTries {
			return r, err
		}
		if last = nil; interrupted {
			last = r
		}
	}
}

// observeOnce returns what it read also where it was interrupted, unless it found no table.
func (k *linux) observeOnce() (*Ruleset, error) {
	before, err := k.conn.GetGen()
	if err != nil {
		return nil, err
	}
	r, err := k.readAll()
	if err != nil {
		return r, err
	}
	after, err := k.conn.GetGen()
	if err != nil {
		return nil, err
	}
	if before.ID != after.ID {
		return r, errInterrupted
	}
	return r, nil
}

// readAll returns what it read also where it was interrupted, unless it found no table.
func (k *linux) readAll() (*Ruleset, error) {
	var interrupted error
	check := func(err error) error {
		if errors.Is(err, errInterrupted) {
			interrupted, err = err, nil
		}
		return err
	}
	r, err := k.observeTable()
	switch {
	case err == nil && !r.Exists:
		return r, nil
	case !r.Exists:
		return nil, err
	}
	if err := check(err); err != nil {
		return nil, err
	}
	d, err := k.dialReader()
	if err != nil {
		return nil, err
	}
	defer d.Close()
	for _, read := range []func(*netlink.Conn, *Ruleset) error{k.readChains, k.readRules, k.readSets} {
		if err := check(read(d, r)); err != nil {
			return nil, err
		}
	}
	for _, spec := range setSpecs(k.family) {
		if s := r.Sets[spec.Name]; s != nil && s.SetSpec == spec && !spec.Learned {
			if err := check(k.readElements(d, r, s)); err != nil {
				return nil, err
			}
		}
	}
	return r, interrupted
}

// readBuffer is the size in bytes of what one message of a dump is read into. The kernel fills messages of
// up to 32 KiB if they have room, and each walks the set from its start again.
const readBuffer = 64 << 10

func (k *linux) dialReader() (*netlink.Conn, error) {
	c, err := netlink.Dial(unix.NETLINK_NETFILTER, &netlink.Config{NetNS: netNSFd(k.ns), MessageBufferSize: readBuffer})
	if err != nil {
		return nil, fmt.Errorf("open netlink socket: %w", err)
	}
	return c, nil
}

// observeTable tells whether the table exists, and reads nothing in it.
func (k *linux) observeTable() (*Ruleset, error) {
	d, err := k.dialReader()
	if err != nil {
		return nil, err
	}
	defer d.Close()
	exists, flags, err := k.findTable(d, TableName)
	if !exists {
		return &Ruleset{Family: k.family, Chains: map[string]Chain{}, Sets: map[string]*Set{}}, err
	}
	r := newRuleset(k.family)
	if flags != 0 {
		r.Flaw = fmt.Sprintf("%s %#x", flagsFlaw, flags)
	}
	return r, err
}

func (k *linux) findTable(d *netlink.Conn, name string) (exists bool, flags uint32, err error) {
	err = k.dump(d, unix.NFT_MSG_GETTABLE, nil, func(m netlink.Message) error {
		var found string
		var itsFlags uint32
		err := attrs(body(m), func(ad attr) error {
			switch ad.Type() {
			case unix.NFTA_TABLE_NAME:
				found = ad.String()
			case unix.NFTA_TABLE_FLAGS:
				itsFlags = ad.Uint32()
			}
			return nil
		})
		if found == name {
			exists, flags = true, itsFlags
		}
		return err
	})
	return exists, flags, err
}

// dump asks for all objects of a kind and hands each message on while it is read. All are read if it returns
// errInterrupted, though of different generations.
func (k *linux) dump(d *netlink.Conn, kind int, of []netlink.Attribute, each func(netlink.Message) error) error {
	return dump(d, layoutOf(k.family).family, kind, of, each)
}

func dump(d *netlink.Conn, family byte, kind int, of []netlink.Attribute, each func(netlink.Message) error) error {
	b, err := netlink.MarshalAttributes(of)
	if err != nil {
		return err
	}
	if _, err := d.Send(netlink.Message{
		Header: netlink.Header{Type: netlink.HeaderType(unix.NFNL_SUBSYS_NFTABLES<<8 | kind), Flags: netlink.Request | netlink.Dump},
		Data:   append([]byte{family, unix.NFNETLINK_V0, 0, 0}, b...),
	}); err != nil {
		return err
	}
	var first, interrupted error
	for m, err := range d.ReceiveIter() {
		if err != nil {
			return err
		}
		if m.Header.Flags&netlink.DumpInterrupted != 0 {
			interrupted = errInterrupted
		}
		if first == nil { // after an error the rest must still be read, or it would be taken for the next answer
			first = each(m)
		}
	}
	return cmp.Or(first, interrupted)
}

func text(s string) []byte { return append([]byte(s), 0) }

func (k *linux) readChains(d *netlink.Conn, r *Ruleset) error {
	return k.dump(d, unix.NFT_MSG_GETCHAIN, nil, func(m netlink.Message) error {
		table, name, c, err := parseChain(m)
		if err == nil && table == TableName && m.Data[0] == layoutOf(k.family).family {
			r.Chains[name] = c
		}
		return err
	})
}

func (k *linux) readRules(d *netlink.Conn, r *Ruleset) error {
	of := []netlink.Attribute{{Type: unix.NFTA_RULE_TABLE, Data: text(TableName)}}
	return k.dump(d, unix.NFT_MSG_GETRULE, of, func(m netlink.Message) error {
		name, rule, err := parseRule(k.family, m)
		if err != nil {
			return err
		}
		c := r.Chains[name]
		c.Rules = append(c.Rules, rule)
		r.Chains[name] = c
		return nil
	})
}

func (k *linux) readSets(d *netlink.Conn, r *Ruleset) error {
	of := []netlink.Attribute{{Type: unix.NFTA_SET_TABLE, Data: text(TableName)}}
	return k.dump(d, unix.NFT_MSG_GETSET, of, func(m netlink.Message) error {
		s, flaw, err := parseSet(m)
		if err != nil {
			return err
		}
		if flaw != "" && slices.ContainsFunc(setSpecs(k.family), func(spec SetSpec) bool { return spec.Name == s.Name }) {
			r.Flaw = flaw
		}
		r.Sets[s.Name] = s
		return nil
	})
}

// elements hands on each element of a set.
func (k *linux) elements(d *netlink.Conn, spec SetSpec, each func(rawElement)) error {
	of := []netlink.Attribute{
		{Type: unix.NFTA_SET_ELEM_LIST_TABLE, Data: text(TableName)},
		{Type: unix.NFTA_SET_ELEM_LIST_SET, Data: text(spec.Name)},
	}
	return k.dump(d, unix.NFT_MSG_GETSETELEM, of, func(m netlink.Message) error { return parseElements(m, spec, each) })
}

func (k *linux) readElements(d *netlink.Conn, r *Ruleset, s *Set) error {
	var ends []rawElement
	err := k.elements(d, s.SetSpec, func(el rawElement) {
		switch {
		case el.catchall:
			r.Flaw = "set " + s.Name + " has an element for everything"
		case s.Interval:
			ends = append(ends, el)
		default:
			s.Elements[el.Key] = el.Element
		}
	})
	if s.Interval {
		slices.SortFunc(ends, func(a, b rawElement) int {
			return cmp.Or(strings.Compare(a.Key, b.Key), boolOrder(b.end, a.end))
		})
		s.Elements = joinIntervals(ends)
	}
	return err
}

// learned takes a list that others' commits interrupted for one, as it is never the last word.
func (k *linux) learned(ctx context.Context, each func(KeyedElement)) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	d, err := k.dialReader()
	if err != nil {
		return err
	}
	defer d.Close()
	err = k.elements(d, learnedSpec(k.family), func(el rawElement) {
		if len(el.Key) > 4 {
			each(el.KeyedElement)
		}
	})
	if errors.Is(err, errInterrupted) || errors.Is(err, unix.ENOENT) {
		return nil
	}
	return err
}

// familyOf returns the family of a message, and false for families that svcproxy has no table in.
func familyOf(m netlink.Message) (model.Family, bool) {
	if len(m.Data) == 0 {
		return 0, false
	}
	switch m.Data[0] {
	case unix.NFPROTO_IPV4:
		return model.IPv4, true
	case unix.NFPROTO_IPV6:
		return model.IPv6, true
	}
	return 0, false
}
