package iptables

import (
	"context"
	"maps"
	"strings"
)

// Cleanup removes what svcproxy programmed and nothing else. Its canary tells which tables it programmed;
// where kube-proxy has taken over since, which its own canary tells, the chains are kube-proxy's now and
// only svcproxy's canary goes. A chain that rules of others still lead to is emptied and stays.
func Cleanup(ctx context.Context, o Options) error { return removeChains(ctx, o, cleanup) }

// CleanupAll also removes what kube-proxy programmed, whose chains have the same names.
func CleanupAll(ctx context.Context, o Options) error {
	err := removeChains(ctx, o, func(t *Table) delta {
		d := diff(t.Name, t.Chains, nil, t.foreign)
		d.unlink(t)
		return d
	})
	if err != nil {
		return err
	}
	k, err := openKernel(o.Family, o.NetNS, o.Binary)
	if err != nil {
		return err
	}
	const table = "mangle"
	var text strings.Builder
	if err := k.save(ctx, table, &text); err != nil || !strings.Contains(text.String(), "\n:"+chainKubeProxyCanary+" ") {
		return err
	}
	return k.restore(ctx, []byte("*"+table+"\n:"+chainKubeProxyCanary+" - [0:0]\n-X "+chainKubeProxyCanary+"\nCOMMIT\n"))
}

// removeChains writes what cleanup makes of each table.
func removeChains(ctx context.Context, o Options, cleanup func(*Table) delta) error {
	k, err := openKernel(o.Family, o.NetNS, o.Binary)
	if err != nil {
		return err
	}
	observed, err := k.observe(ctx)
	if err != nil {
		return err
	}
	if err := observed.readable(); err != nil {
		return err
	}
	var deltas []delta
	for _, name := range tableNames {
		if d := cleanup(observed.table(name)); !d.empty() {
			deltas = append(deltas, d)
		}
	}
	w := &writer{kernel: k, log: logger(o)}
	_, err = w.write(ctx, deltas)
	return err
}

// cleanup returns what removes svcproxy's share of a table.
func cleanup(t *Table) delta {
	if _, ours := t.Chains[chainCanary]; !ours {
		return delta{table: t.Name}
	}
	base := t.Chains
	if _, theirs := t.Chains[chainKubeProxyCanary]; theirs {
		base = maps.Clone(base)
		maps.DeleteFunc(base, func(name string, _ []Rule) bool { return name != chainCanary })
	}
	d := diff(t.Name, base, nil, t.foreign)
	d.unlink(t)
	return d
}
