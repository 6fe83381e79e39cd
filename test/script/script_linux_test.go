package script

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"svcproxy/model"
	"svcproxy/test/dataplane"
	"svcproxy/test/nstest"
)

// TestScripts runs every script.
func TestScripts(t *testing.T) {
	paths, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(paths) == 0 {
		t.Fatalf("no scripts: %v", err)
	}
	for i, path := range paths {
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		s, err := parse(filepath.Base(path), data)
		if err != nil {
			t.Fatal(err)
		}
		t.Run(strings.TrimSuffix(s.name, ".txtar"), func(t *testing.T) {
			t.Parallel()
			s.everywhere(t, i)
		})
	}
}

// place is where a script runs.
type place struct {
	plane  dataplane.Plane
	family model.Family
}

// places returns where the script runs: everywhere in the long mode; else, so that a plain go test stays quick,
// with nftables in one family and with one of the iptables in the other. Which, goes round from script to script.
func (s *script) places(number int) (all []place) {
	if nstest.Sized(0, 1) == 0 {
		n := len(s.families)
		iptables := []dataplane.Plane{dataplane.IPTablesLegacy, dataplane.IPTablesNFT}[number/2%2]
		return []place{{dataplane.NFTables, s.families[number%n]}, {iptables, s.families[(number+1)%n]}}
	}
	for _, plane := range dataplane.All {
		for _, f := range s.families {
			all = append(all, place{plane, f})
		}
	}
	return all
}

// everywhere runs a script in each of its places.
func (s *script) everywhere(t *testing.T, number int) {
	for _, at := range s.places(number) {
		name := at.plane.Name + " " + at.family.String()
		if s.dual {
			name = at.plane.Name
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			newRun(t, s.in(at.family), at.plane, at.family).all()
		})
	}
}

// backendFamilies are those that a script's proxy programs.
func (s *script) backendFamilies(f model.Family) []model.Family {
	if s.dual {
		return model.Families
	}
	return []model.Family{f}
}
