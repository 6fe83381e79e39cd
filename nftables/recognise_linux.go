package nftables

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/nftables/expr"

	"svcproxy/model"
)

// recognise returns the rule that has these expressions.
func recognise(f model.Family, found []any) Rule {
	have := describe(found)
	if len(found) == 0 {
		return Rule{Foreign: "nothing"}
	}
	said := parameters(found)
	for kind := Dispatch; kind < ruleKinds; kind++ {
		r := said.of(kind)
		var want []any
		for _, e := range r.exprs(f) {
			want = append(want, e)
		}
		if len(want) == len(found) && describe(want) == have {
			return r
		}
	}
	if v, ok := found[len(found)-1].(*expr.Verdict); ok && len(found) == 1 {
		have = verdictText(v.Kind, v.Chain)
	}
	return Rule{Foreign: have}
}

// said is what expressions say that a rule's parameters could be.
type said struct {
	Rule
	firstMask uint32
}

// of returns a rule of a kind with the parameters that the kind has.
func (s said) of(kind RuleKind) Rule {
	switch r := (Rule{Kind: kind}); kind {
	case Dispatch:
		r.NodePort = s.NodePort
		return r
	case DispatchOutside:
		r.NotPods, r.NodePort = s.NotPods, s.NodePort
		return r
	case Mark:
		r.NotPods, r.Mark = s.NotPods, s.Mark
		return r
	case Stick:
		r.NodePort, r.Offset, r.Timeout = s.NodePort, s.Offset, s.Timeout
		return r
	case PickAndStick:
		r.NodePort, r.Modulus, r.Offset, r.Timeout = s.NodePort, s.Modulus, s.Offset, s.Timeout
		return r
	case Balance:
		r.NodePort, r.Modulus, r.Offset = s.NodePort, s.Modulus, s.Offset
		return r
	case MasqueradeMarked:
		r.Mark = s.firstMask
		return r
	default:
		return r
	}
}

func parameters(found []any) (s said) {
	byName := false
	for _, e := range found {
		switch e := e.(type) {
		case *expr.Numgen:
			s.Modulus, s.Offset = e.Modulus, e.Offset
		case *expr.Dynset:
			s.Timeout = uint32(e.Timeout / time.Second)
		case *expr.Bitwise:
			s.NodePort = !slices.ContainsFunc(e.Mask, func(b byte) bool { return b != 0 })
			if len(e.Xor) == 4 && len(e.Mask) == 4 {
				s.Mark = binary.NativeEndian.Uint32(e.Xor)
				s.firstMask = cmp.Or(s.firstMask, binary.NativeEndian.Uint32(e.Mask))
			}
		case *expr.Meta:
			byName = e.Key == expr.MetaKeyIIFNAME
		case *expr.Cmp:
			if byName {
				s.NotPods = interfaceName(e.Data)
			}
			byName = false
		case *expr.Lookup:
			if e.Invert && e.SetName == podNetsSet {
				s.NotPods = fromPodNets
			}
		}
	}
	return s
}

// interfaceName returns the name that is compared with an interface's, ending in "+" if it is only the
// beginning of one.
func interfaceName(data []byte) string {
	name, _, whole := bytes.Cut(data, []byte{0})
	if whole {
		return string(name)
	}
	return string(name) + "+"
}

// describe writes expressions so that two lists are equal just if their descriptions are.
func describe(list []any) string {
	var b strings.Builder
	for i, e := range list {
		if i > 0 {
			b.WriteString("; ")
		}
		if name, ok := e.(string); ok {
			b.WriteString(name)
			continue
		}
		fmt.Fprintf(&b, "%s %+v", strings.TrimPrefix(fmt.Sprintf("%T", e), "*expr."), e)
	}
	return b.String()
}
