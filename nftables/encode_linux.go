package nftables

import (
	"fmt"
	"strings"

	nft "github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"

	"svcproxy/model"
)

func table(f model.Family) *nft.Table {
	return &nft.Table{Family: nft.TableFamily(layoutOf(f).family), Name: TableName}
}

// encodeSet returns a set for google/nftables. The types serve only those who list it: the index, which nft
// prints as a number of a type that it cannot declare, goes as a mark.
func encodeSet(f model.Family, s *Set) *nft.Set {
	addr := nft.TypeIPAddr
	if f == model.IPv6 {
		addr = nft.TypeIP6Addr
	}
	frontend := []nft.SetDatatype{addr, nft.TypeInetProto, nft.TypeInetService}
	out := &nft.Set{Table: table(f), Name: s.Name, IsMap: s.Map, Interval: s.Interval || s.Ranges, Concatenation: s.Ranges,
		Dynamic: s.Learned, HasTimeout: s.Learned, Size: s.Size, KeyType: addr}
	switch s.Name {
	case endpointsMap, affinityEndpointsMap:
		out.KeyType = nft.MustConcatSetType(append(frontend, nft.TypeMark)...)
		out.DataType = nft.MustConcatSetType(addr, nft.TypeInetService)
		out.KeyByteOrder = binaryutil.NativeEndian
	case affinityListsMap, affinityPicksMap:
		out.KeyType, out.DataType = nft.MustConcatSetType(append(frontend, nft.TypeMark)...), nft.TypeMark
		out.KeyByteOrder = binaryutil.NativeEndian
	case affinityMap:
		out.KeyType, out.DataType = nft.MustConcatSetType(addr, nft.TypeMark), nft.TypeMark
		out.KeyByteOrder = binaryutil.NativeEndian
	case servicesMap, servicesOutsideMap:
		out.KeyType, out.DataType = nft.MustConcatSetType(frontend...), nft.TypeVerdict
	case limitedSet:
		out.KeyType = nft.MustConcatSetType(frontend...)
	case sourceRangesSet:
		out.KeyType = nft.MustConcatSetType(append(frontend, addr)...)
	case hairpinSet:
		out.KeyType = nft.MustConcatSetType(addr, addr)
	}
	return out
}

// encodeElements returns elements for google/nftables; for a deletion by their keys alone.
func encodeElements(s *Set, elements []KeyedElement, keysOnly bool) ([]nft.SetElement, error) {
	if s.Interval {
		return encodeIntervals(elements), nil
	}
	out := make([]nft.SetElement, len(elements))
	b := make([]byte, 0, len(elements)*int(2*s.KeyLen+s.DataLen)) // for all of them at once
	bytesOf := func(text string) []byte {
		b = append(b, text...)
		return b[len(b)-len(text) : len(b) : len(b)]
	}
	verdicts := map[string]*expr.Verdict{}
	for i, el := range elements {
		out[i].Key = bytesOf(el.Key)
		if s.Ranges {
			n := s.KeyLen
			out[i].Key, out[i].KeyEnd = out[i].Key[:n:n], out[i].Key[n:]
		}
		if keysOnly {
			continue
		}
		out[i].Comment = el.Comment
		switch {
		case s.Verdict:
			if verdicts[el.Data] == nil {
				v, err := parseVerdict(el.Data)
				if err != nil {
					return nil, err
				}
				verdicts[el.Data] = v
			}
			out[i].VerdictData = verdicts[el.Data]
		case s.Map:
			out[i].Val = bytesOf(el.Data)
		}
	}
	return out, nil
}

// encodeIntervals gives each interval its two ends.
func encodeIntervals(elements []KeyedElement) []nft.SetElement {
	var out []nft.SetElement
	for _, el := range elements {
		out = append(out, nft.SetElement{Key: []byte(el.Key)})
		if el.Data != "" {
			out = append(out, nft.SetElement{Key: []byte(el.Data), IntervalEnd: true})
		}
	}
	return out
}

// parseVerdict reads a verdict in nft's words.
func parseVerdict(s string) (*expr.Verdict, error) {
	word, chain, _ := strings.Cut(s, " ")
	switch {
	case word == "goto" && chain != "":
		return &expr.Verdict{Kind: expr.VerdictGoto, Chain: chain}, nil
	case s == "drop":
		return &expr.Verdict{Kind: expr.VerdictDrop}, nil
	}
	return nil, fmt.Errorf("verdict %q is none that svcproxy writes", s)
}

// verdictText writes a verdict in nft's words.
func verdictText(kind expr.VerdictKind, chain string) string {
	switch kind {
	case expr.VerdictGoto:
		return "goto " + chain
	case expr.VerdictJump:
		return "jump " + chain
	case expr.VerdictDrop:
		return "drop"
	case expr.VerdictAccept:
		return "accept"
	case expr.VerdictReturn:
		return "return"
	case expr.VerdictContinue:
		return "continue"
	}
	return fmt.Sprintf("verdict %d", kind)
}
