package iptables

import (
	"os"
	"strings"
	"testing"

	"svcproxy/model"
	"svcproxy/test/nstest"
)

// On a node that never used iptables, to look or to clean up makes no tables.
func TestLookingMakesNoTables(t *testing.T) {
	for _, binary := range []string{"iptables-legacy", "iptables-nft"} {
		for _, f := range model.Families {
			t.Run(binary+"/"+f.String(), func(t *testing.T) {
				ns := nstest.New(t)
				o := Options{Family: f, NetNS: ns.Path(), Binary: binary}
				r, err := Observe(t.Context(), o)
				if err != nil || len(r.View().Services) != 0 {
					t.Errorf("Observe: got %v, %v", r, err)
				}
				if err := Cleanup(t.Context(), o); err != nil {
					t.Errorf("Cleanup: %v", err)
				}
				if err := CleanupAll(t.Context(), o); err != nil {
					t.Errorf("CleanupAll: %v", err)
				}
				err = ns.Do(func() error {
					for _, path := range []string{"/proc/thread-self/net/ip_tables_names", "/proc/thread-self/net/ip6_tables_names"} {
						if text, err := os.ReadFile(path); err == nil && len(text) > 0 {
							t.Errorf("%s: got %q, want no tables", path, text)
						}
					}
					return nil
				})
				if err != nil {
					t.Error(err)
				}
				if tables := strings.TrimSpace(ns.Run(t, "nft", "list", "tables")); tables != "" {
					t.Errorf("tables were made: %s", tables)
				}
			})
		}
	}
}
