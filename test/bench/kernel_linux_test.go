package bench

import (
	"fmt"
	"os"
	"runtime"
	"testing"
)

// cheap and dear are how many changes of each kind are sampled: of iptables, where one takes long, fewer.
const (
	cheap = 500
	dear  = 15
)

// compare measures peers at one size and prints them side by side.
func compare(b *testing.B, s size, peers ...peer) {
	runs := make([]run, len(peers))
	measured := 0
	for i, p := range peers {
		changes := cheap
		if p.name != nft.name {
			changes = dear
		}
		b.Run(p.name, func(b *testing.B) {
			for range b.N {
				runs[i] = p.measure(b, s, changes)
			}
			runs[i].report(b)
		})
		if runs[i].peer != "" {
			measured++
		}
	}
	if measured == len(peers) { // all were chosen by -bench, and none failed
		fmt.Printf("\n%d processors, load average %s\n", runtime.NumCPU(), load())
		printTable(os.Stdout, s.String(), runs...)
	}
}

// The peer on the nf_tables kernel API takes minutes and more at full size.
func Benchmark1000Services(b *testing.B) {
	compare(b, size{services: 1000, endpoints: 10}, nft, iptLegacy, iptNFT)
}

func Benchmark10000Services(b *testing.B) {
	compare(b, size{services: 10000, endpoints: 10}, nft, iptLegacy)
}

// Services of every class, to compare with ClusterIPs alone.
func Benchmark1000ServicesOfAllClasses(b *testing.B) {
	compare(b, size{services: 1000, endpoints: 10, mixed: true}, nft, iptLegacy, iptNFT)
}

func Benchmark10000ServicesOfAllClasses(b *testing.B) {
	compare(b, size{services: 10000, endpoints: 10, mixed: true}, nft, iptLegacy)
}

// The numbers of endpoints differ, so that every class has its chain.
func Benchmark1000ServicesDrawn(b *testing.B) {
	compare(b, size{services: 1000, endpoints: -1}, nft, iptLegacy)
}

// The peer would need four million rules for this.
func Benchmark10000ServicesDrawn(b *testing.B) {
	compare(b, size{services: 10000, endpoints: -1}, nft)
}
