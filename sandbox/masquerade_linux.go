package sandbox

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// MasqueradeTable is the name of the nftables tables, one a family, that give a node's address to what its pods send
// outside. Nobody else's tables are touched, and a proxy's own masquerading beside them changes nothing: of all NAT rules the first
// that matches a connection counts, and either gives the node's address.
const MasqueradeTable = "svcproxy-sandbox"

// masquerade makes connections of the pods, whose addresses are in these prefixes, to anything outside of them leave by
// eth0 with the node's address. A family that the node has no address in is left out.
func (n *Node) masquerade(pods []netip.Prefix) error {
	if len(pods) == 0 {
		return nil
	}
	var families []nftables.TableFamily
	conn, err := nftables.New(nftables.WithNetNSFd(n.FD()))
	if err != nil {
		return fmt.Errorf("masquerade pods: %w", err)
	}
	for _, prefix := range pods {
		if !prefix.IsValid() {
			return fmt.Errorf("masquerade pods: prefix %v is not valid", prefix)
		}
		family := tableFamily(prefix)
		if _, ok := sameFamily(prefix.Addr(), n.Addrs); ok && !slices.Contains(families, family) {
			families = append(families, family)
		}
	}
	for _, family := range families {
		same := slices.DeleteFunc(slices.Clone(pods), func(p netip.Prefix) bool { return tableFamily(p) != family })
		addMasquerade(conn, family, same)
	}
	if err := conn.Flush(); err != nil {
		if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EAFNOSUPPORT) {
			return fmt.Errorf("masquerade pods: the kernel has no NAT of nftables: %w", err)
		}
		return fmt.Errorf("masquerade pods: %w", err)
	}
	return nil
}

func addMasquerade(conn *nftables.Conn, family nftables.TableFamily, pods []netip.Prefix) {
	table := conn.AddTable(&nftables.Table{Family: family, Name: MasqueradeTable})
	chain := conn.AddChain(&nftables.Chain{
		Table: table, Name: "postrouting", Type: nftables.ChainTypeNAT,
		Hooknum: nftables.ChainHookPostrouting, Priority: nftables.ChainPriorityNATSource,
	})
	rule := func(parts ...[]expr.Any) {
		conn.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: slices.Concat(parts...)})
	}
	for _, prefix := range pods {
		rule(inPrefix(prefix, destination), []expr.Any{&expr.Verdict{Kind: expr.VerdictReturn}})
	}
	for _, prefix := range pods {
		rule(outBy(podInterface), inPrefix(prefix, source), []expr.Any{&expr.Masq{FullyRandom: true}})
	}
}

func tableFamily(prefix netip.Prefix) nftables.TableFamily {
	if prefix.Addr().Is4() {
		return nftables.TableFamilyIPv4
	}
	return nftables.TableFamilyIPv6
}

// outBy matches packets that leave by the interface.
func outBy(name string) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyOIFNAME, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: append([]byte(name), make([]byte, unix.IFNAMSIZ-len(name))...)},
	}
}

// field is which address of a packet.
type field int

const (
	source field = iota
	destination
)

// inPrefix matches packets whose source or destination is in the prefix.
func inPrefix(prefix netip.Prefix, which field) []expr.Any {
	addr := prefix.Masked().Addr().AsSlice()
	offset := 12 // in IPv4's header
	if len(addr) == 16 {
		offset = 8
	}
	mask := make([]byte, len(addr))
	for i := range prefix.Bits() {
		mask[i/8] |= 0x80 >> (i % 8)
	}
	return []expr.Any{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: uint32(offset + int(which)*len(addr)), Len: uint32(len(addr))},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: uint32(len(addr)), Mask: mask, Xor: make([]byte, len(addr))},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: addr},
	}
}
