package sandbox

import (
	"errors"
	"testing"
)

func TestOnlyTheNamespaceMadeByIsolateIsIsolated(t *testing.T) {
	const outer, inner, third = "net:[1]", "net:[2]", "net:[3]"
	for name, c := range map[string]struct {
		mark, current string
		ok            bool
	}{
		"inside":                       {outer + " " + inner, inner, true},
		"never isolated":               {"", outer, false},
		"back in the one left":         {outer + " " + inner, outer, false},
		"in some other":                {outer + " " + inner, third, false},
		"isolation changed nothing":    {outer + " " + outer, outer, false},
		"mark without inner namespace": {outer, outer, false},
		"mark with empty namespaces":   {" ", "", false},
	} {
		err := checkIsolated(c.mark, c.current)
		if (err == nil) != c.ok {
			t.Errorf("%s: %v", name, err)
		}
		if absent := c.mark == ""; errors.Is(err, ErrNotIsolated) != absent {
			t.Errorf("%s: ErrNotIsolated is for a program without a mark, got %v", name, err)
		}
	}
}

func TestInterfaceNamesFitAndDiffer(t *testing.T) {
	seen := map[string]bool{}
	for _, pod := range []string{"", "a", "kube-system/coredns-a", "kube-system/coredns-b"} {
		name := interfaceName("veth", pod)
		if len(name) != 12 || seen[name] || name != interfaceName("veth", pod) {
			t.Errorf("interface of %q is %q", pod, name)
		}
		seen[name] = true
	}
}
