// Package policy enforces the rules by which this project is laid out.
package policy

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const (
	module = "svcproxy"
	root   = "../.." // of the module, from this package
)

// listed is what `go list -json` says of one package.
type listed struct {
	ImportPath                         string
	Imports, TestImports, XTestImports []string
}

func (p listed) folder() string { return strings.TrimPrefix(p.ImportPath, module+"/") }

func list(t *testing.T) []listed {
	t.Helper()
	command := exec.Command("go", "list", "-json=ImportPath,Imports,TestImports,XTestImports", "./...")
	command.Dir = root
	var stderr strings.Builder
	command.Stderr = &stderr
	out, err := command.Output()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, stderr.String())
	}
	var all []listed
	for decoder := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p listed
		if err := decoder.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatalf("go list: %v", err)
		}
		all = append(all, p)
	}
	if len(all) == 0 {
		t.Fatal("go list: no packages")
	}
	return all
}

func TestImportsGoOneWay(t *testing.T) {
	for _, p := range list(t) {
		l, ok := layerOf(p.folder())
		if !ok {
			t.Errorf("%s: no layer says what it may import: give it one in rules_test.go", p.folder())
			continue
		}
		own := append([]string{l.folder}, l.may...)
		for _, broken := range foreign(p.Imports, own) {
			t.Errorf("%s imports %s: %s", p.folder(), broken, l.why)
		}
		own = append(own, l.tests...)
		for _, broken := range foreign(slices.Concat(p.TestImports, p.XTestImports), own) {
			t.Errorf("the tests of %s import %s: %s", p.folder(), broken, l.why)
		}
	}
}

// foreign are the packages of this project among imports whose own layer is none of those allowed.
func foreign(imports, allowed []string) []string {
	var out []string
	for _, path := range imports {
		folder, ours := strings.CutPrefix(path, module+"/")
		if !ours {
			continue
		}
		if l, ok := layerOf(folder); !ok || !slices.Contains(allowed, l.folder) {
			out = append(out, folder)
		}
	}
	return out
}

func TestOthersModulesStayWhereTheyAreNeeded(t *testing.T) {
	for _, p := range list(t) {
		for _, f := range fences {
			if within(p.folder(), f.within) {
				continue
			}
			for _, path := range slices.Concat(p.Imports, p.TestImports, p.XTestImports) {
				if slices.ContainsFunc(f.modules, func(m string) bool { return strings.HasPrefix(path, m) }) {
					t.Errorf("%s imports %s: %s", p.folder(), path, f.why)
				}
			}
		}
	}
}

// A rule that could not be broken would be worth nothing.
func TestTheRulesRefuse(t *testing.T) {
	for _, c := range []struct {
		folder string
		path   string
		want   bool
	}{
		{"nftables", "svcproxy/plan", true},
		{"nftables", "svcproxy/iptables", false},
		{"iptables", "svcproxy/nftables", false},
		{"plan", "svcproxy/nftables", false},
		{"model", "svcproxy/plan", false},
		{"sandbox", "svcproxy/model", false},
		{"proxier", "svcproxy/cmd/svcproxy", false},
		{"proxier/local", "svcproxy/sandbox", false},
		{"kubelet", "svcproxy/sandbox", true},
		{"sandbox/image", "svcproxy/model", false},
		{"proxier", "svcproxy/proxier/local", false},
		{"cmd/svcproxy", "svcproxy/proxier/local", false},
		{"dns", "svcproxy/plan", false},
	} {
		l, ok := layerOf(c.folder)
		if !ok {
			t.Fatalf("%s: no layer", c.folder)
		}
		got := len(foreign([]string{c.path}, append([]string{l.folder}, l.may...))) == 0
		if got != c.want {
			t.Errorf("%s imports %s: allowed %v, want %v", c.folder, c.path, got, c.want)
		}
	}
}
