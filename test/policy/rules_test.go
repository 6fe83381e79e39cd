package policy

import "strings"

// A layer says what the packages of one folder may import of this project. A package that no layer
// covers fails the test, so that a new folder's place is decided when it is made.
type layer struct {
	folder string   // relative to the module; covers the folders below it too, the longest match wins
	may    []string // folders of the project that it may import, besides its own
	tests  []string // and those that its test files may import as well
	why    string
}

// Imports go one way: cmd → proxier → {nftables, iptables, conntrack} → plan → model; dns → model.
var layers = []layer{
	{"model", nil, nil,
		"values that everything else computes with: an import here would be an import everywhere"},
	{"netns", nil, []string{"test/nstest"},
		"enters a namespace that a path names: whoever touches a kernel may need to, so it needs nobody"},
	{"plan", []string{"model"}, nil,
		"all policy is decided here once, for every backend alike, so it can know of none of them"},
	{"nftables", []string{"model", "plan", "netns"}, []string{"sandbox", "test/nstest", "test/world"},
		"renders what the plan says; what it shared with iptables would belong in the plan"},
	{"iptables", []string{"model", "plan", "netns"}, []string{"sandbox", "test/nstest"},
		"renders what the plan says; what it shared with nftables would belong in the plan"},
	{"conntrack", []string{"model", "plan", "netns"}, []string{"sandbox", "test/nstest"},
		"which flows are stale follows from the plan alone, whichever backend made them"},
	{"dns", []string{"model"}, []string{"sandbox", "test/nstest"},
		"answers from Services as they are; what the node's data plane makes of them must not change an answer"},
	{"inspect", []string{"model", "plan"}, nil,
		"writes a view that a backend gave as a value, so that one view serves both"},
	{"sandbox", nil, []string{"test/nstest"},
		"makes namespaces from plain values: usable, and to be trusted, without the proxy it tests"},
	{"proxier", []string{"model", "plan", "netns", "nftables", "iptables", "conntrack"}, []string{"sandbox", "test/nstest", "test/fakekernel"},
		"carries objects to the kernel; what it needs from above is handed to it"},
	{"proxier/local", []string{"model", "proxier"}, []string{"test/nstest"},
		"plays the cluster's controllers where there is no cluster"},
	{"proxier/clusterdns", []string{"model", "dns", "proxier", "proxier/local"}, []string{"test/nstest"},
		"makes DNS zones of objects that the proxy's own informers leave out"},
	{"kubelet", []string{"sandbox", "proxier/local"}, []string{"model", "test/nstest"},
		"runs v1 Pods in the sandbox, whoever wrote them and whatever leads packets to them"},
	{"cluster", []string{"model", "sandbox", "dns", "proxier", "proxier/local", "proxier/clusterdns", "kubelet"}, []string{"test/nstest"},
		"a one-node cluster that outlives the command that made it; the backends are handed to it"},
	{"demo", []string{"model", "inspect", "sandbox", "dns", "proxier", "proxier/local", "proxier/clusterdns", "kubelet", "cluster"}, []string{"test/nstest"},
		"tells its story with the finished program, as a user would: it looks into no backend"},
	{"cmd", []string{"model", "plan", "netns", "nftables", "iptables", "conntrack", "dns", "inspect", "sandbox", "proxier", "proxier/clusterdns", "kubelet", "cluster", "demo"}, []string{"test/nstest"},
		"wires everything together; nothing but tests of the finished program stands above it"},
	{"test/nstest", []string{"sandbox"}, nil,
		"the harness of every kernel test: what it imported, no test of that could use it"},
	{"test/world", []string{"model", "plan", "sandbox", "test/nstest"}, nil,
		"sends packets and sees what comes back: an oracle that knew a backend or the proxier would not judge them"},
	{"test", []string{"model", "plan", "netns", "nftables", "iptables", "conntrack", "dns", "inspect", "sandbox", "proxier", "proxier/local", "proxier/clusterdns", "kubelet", "cluster", "test/nstest", "test/world"}, nil,
		"tests across packages look at all of them but the commands, which they run as programs"},
}

// A fence keeps modules of others in the folders that need them. With imports going one way, who
// does not import a module, and nobody below who does, does not depend on it.
type fence struct {
	modules []string // import path prefixes
	within  []string // folders that may import them
	why     string
}

var fences = []fence{
	{[]string{"k8s.io/"}, []string{"proxier", "kubelet", "cluster", "demo", "cmd", "test"},
		"Kubernetes types end at the conversion to values: their defaults, pointers and versions are no concern of a data plane or of namespaces"},
	{[]string{"github.com/spf13/"}, []string{"cmd"},
		"flags are the command line's; a package takes values"},
	{[]string{"github.com/miekg/dns"}, []string{"dns", "proxier/clusterdns", "test"},
		"one package speaks DNS"},
	{[]string{"github.com/coreos/go-iptables"}, []string{"iptables", "test"},
		"one package speaks iptables"},
	{[]string{"github.com/google/nftables"}, []string{"nftables", "sandbox", "test"},
		"one package speaks the proxy's nftables; the sandbox, which may not import it, masquerades its pods as a network plugin would"},
	{[]string{"github.com/ti-mo/"}, []string{"conntrack", "test"},
		"one package speaks to the connection tracker"},
	{[]string{"github.com/vishvananda/netlink"}, []string{"sandbox", "proxier", "test"},
		"links, addresses and routes are made in one place; the proxy only looks at them"},
}

// linuxOnly are the imports that may stand only in files named *_linux.go or *_linux_test.go: such
// a name tells a reader that the file touches the machine, and that all other files can be read,
// tested and trusted as computation.
var linuxOnly = []string{
	"os/exec",
	"github.com/coreos/go-iptables/iptables",
	"github.com/mdlayher/netlink",
	"github.com/moby/sys/reexec",
	"github.com/ti-mo/conntrack",
	"github.com/vishvananda/netlink",
	"github.com/vishvananda/netns",
}

// pure are the folders whose results depend on nothing but their arguments: the same plan gives the
// same bytes. Their *_linux.go files are the kernel's side and are exempt.
var pure = []string{"model", "plan", "nftables", "iptables", "inspect"}

// An allowance is one file that may do what the rules forbid in tests. One that matches nothing
// fails, so that the list cannot outlive its reasons.
type allowance struct{ file, call, why string }

var allowances = []allowance{
	{"sandbox/netns_linux_test.go", ".SkipNow",
		"skips no test: it ends a goroutine the way FailNow does, which is what is tested"},
}

// within tells whether the folder is one of folders or below one of them.
func within(folder string, folders []string) bool {
	for _, f := range folders {
		if folder == f || strings.HasPrefix(folder, f+"/") {
			return true
		}
	}
	return false
}

// layerOf is the layer with the longest folder that covers the folder given.
func layerOf(folder string) (layer, bool) {
	var best layer
	for _, l := range layers {
		if within(folder, []string{l.folder}) && len(l.folder) > len(best.folder) {
			best = l
		}
	}
	return best, best.folder != ""
}
