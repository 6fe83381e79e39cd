package nftables

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"

	nft "github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"svcproxy/model"
	"svcproxy/plan"
)

// ObserveKubeProxy reads what kube-proxy's nftables mode has programmed for one family: the Services in its
// maps of addresses and of node ports, with the endpoints that their chains lead to, and those without
// endpoints. It follows the
// table of Kubernetes 1.37; without such a table there are no Services.
func ObserveKubeProxy(ctx context.Context, o Options) (model.View, error) {
	k, err := openKernel(o)
	if err != nil {
		return model.View{}, err
	}
	t, err := k.readKubeProxy(ctx)
	if err = errors.Join(err, k.close()); err != nil {
		return model.View{}, fmt.Errorf("read table %s %s: %w", familyWord(o.Family), kubeProxyTable, err)
	}
	return t.view(), nil
}

// CleanupKubeProxy deletes the table of kube-proxy's nftables mode, if there is one.
func CleanupKubeProxy(_ context.Context, o Options) error {
	k, err := openKernel(o)
	if err != nil {
		return err
	}
	// Adding the table makes it where it is missing, so that it can be deleted in any case.
	t := &nft.Table{Family: table(o.Family).Family, Name: kubeProxyTable}
	k.conn.AddTable(t)
	k.conn.DelTable(t)
	if err = k.conn.Flush(); err != nil {
		err = fmt.Errorf("delete table %s %s: %w", familyWord(o.Family), kubeProxyTable, err)
	}
	return errors.Join(err, k.close())
}

// readKubeProxy reads it at one generation of the ruleset, if it can: kube-proxy may write it all the time.
func (k *linux) readKubeProxy(ctx context.Context) (*kubeTable, error) {
	for try := 0; ; try++ {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		t, err := k.readKubeProxyOnce()
		again := errors.Is(err, errInterrupted) || errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EINTR)
		if !again || try == readTries {
			return t, err
		}
	}
}

func (k *linux) readKubeProxyOnce() (*kubeTable, error) {
	t := &kubeTable{family: k.family, chains: map[string][]kubeRule{}, sets: map[string]map[string]Element{}}
	d, err := k.dialReader()
	if err != nil {
		return nil, err
	}
	defer d.Close()
	if exists, _, err := k.findTable(d, kubeProxyTable); err != nil || !exists {
		return t, err
	}
	table := netlink.Attribute{Type: unix.NFTA_RULE_TABLE, Data: text(kubeProxyTable)}
	var specs []SetSpec
	if err := k.dump(d, unix.NFT_MSG_GETSET, []netlink.Attribute{table}, func(m netlink.Message) error {
		s, _, err := parseSet(m)
		if slices.Contains(kubeSets, s.Name) || s.Map && strings.HasPrefix(s.Name, kubeAnonymousMaps) {
			specs = append(specs, s.SetSpec)
		}
		return err
	}); err != nil {
		return nil, err
	}
	if err := k.dump(d, unix.NFT_MSG_GETRULE, []netlink.Attribute{table}, func(m netlink.Message) error {
		chain, r, err := parseKubeRule(k.family, m)
		t.chains[chain] = append(t.chains[chain], r)
		return err
	}); err != nil {
		return nil, err
	}
	for _, spec := range specs {
		els := map[string]Element{}
		t.sets[spec.Name] = els
		set := netlink.Attribute{Type: unix.NFTA_SET_ELEM_LIST_SET, Data: text(spec.Name)}
		if err := k.dump(d, unix.NFT_MSG_GETSETELEM, []netlink.Attribute{table, set}, func(m netlink.Message) error {
			return parseElements(m, spec, func(el rawElement) { els[el.Key] = el.Element })
		}); err != nil {
			return nil, err
		}
	}
	return t, nil
}

// parseKubeRule reads where a rule of kube-proxy's sends a connection.
func parseKubeRule(f model.Family, m netlink.Message) (chain string, r kubeRule, err error) {
	registers := map[uint32][]byte{}
	err = attrs(body(m), func(ad attr) error {
		switch ad.Type() {
		case unix.NFTA_RULE_CHAIN:
			chain = ad.String()
		case unix.NFTA_RULE_EXPRESSIONS:
			return attrs(ad.Bytes(), func(ad attr) error {
				return r.take(f, ad.Bytes(), registers)
			})
		}
		return nil
	})
	return chain, r, err
}

// take takes in an expression, given what constants are in the registers.
func (r *kubeRule) take(f model.Family, b []byte, registers map[uint32][]byte) error {
	name, data, err := splitExpr(b)
	if err != nil {
		return err
	}
	e := newExpr(name, data)
	if name == "immediate" && e == nil {
		e = &expr.Immediate{}
	}
	if e == nil {
		return nil
	}
	if err := expr.Unmarshal(layoutOf(f).family, data, e); err != nil {
		return fmt.Errorf("expression %s: %w", name, err)
	}
	switch e := e.(type) {
	case *expr.Immediate:
		registers[e.Register] = e.Data
	case *expr.Lookup:
		if e.IsDestRegSet && strings.HasPrefix(e.SetName, kubeAnonymousMaps) {
			r.pick = e.SetName
		}
	case *expr.Verdict:
		if e.Kind == expr.VerdictGoto {
			r.next = e.Chain
		}
	case *expr.NAT:
		addr, port := registers[e.RegAddrMin], registers[e.RegProtoMin]
		if e.Type == expr.NATTypeDestNAT && len(addr) == f.Bits()/8 && len(port) >= 2 {
			r.to = plan.Endpoint{Addr: addrOf(string(addr)), Port: binary.BigEndian.Uint16(port)}
		}
	}
	return nil
}
