package escape

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"svcproxy/sandbox"
	"svcproxy/test/nstest"
)

// plantAttack puts links into a volume that lead to the host's folder.
var plantAttack = register("plant", func(a *attacker) {
	folder := filepath.Dir(a.marker)
	for name, target := range map[string]string{
		"absolute": folder, "relative": "../../../../../../../../.." + folder, "file": a.marker, "root": "/",
		"magic": "/proc/self/root" + folder, "cwd": "/proc/self/cwd", "fd": "/proc/self/fd/3", "pid": "/proc/1/root", "up": "..",
	} {
		a.holds("plant "+name, os.Symlink(target, "/volume/"+name) == nil, "")
	}
})

// swapAttack exchanges a folder and a link to the host again and again.
var swapAttack = register("swap", func(a *attacker) {
	folder := filepath.Dir(a.marker)
	err := os.MkdirAll("/volume/swap"+folder, 0o777)
	a.holds("make the folder", err == nil, err)
	a.holds("make the link", os.Symlink("/", "/volume/link") == nil, "")
	a.Facts["files"] = ""
	a.running(func() {
		if err := unix.Renameat2(unix.AT_FDCWD, "/volume/swap", unix.AT_FDCWD, "/volume/link", unix.RENAME_EXCHANGE); err != nil {
			a.holds("exchange", false, err)
		}
	})
})

// lookAttack looks around in what was mounted.
var lookAttack = register("look", func(a *attacker) {
	a.hidden("look around in /in", "/in")
	for _, name := range []string{"/in", "/in/marker", "/in/in", "/extra/absolute/in/marker"} {
		content, err := os.ReadFile(name)
		a.holds("read "+name, err != nil || string(content) != a.secret, "the host's file")
		_ = os.WriteFile(name+"/planted", []byte("owned"), 0o666)
	}
	a.hidden("look around", "/")
})

// untouched requires that the host's folder has its file and nothing else.
func (p *prison) untouched(t *testing.T) {
	t.Helper()
	content, err := os.ReadFile(p.marker)
	if err != nil || string(content) != p.secret || len(names(filepath.Dir(p.marker))) != 1 {
		t.Errorf("the host's folder has %v, its file %q, %v", names(filepath.Dir(p.marker)), content, err)
	}
}

// folder is what a volume mounts.
func folder(t *testing.T, volume func(*sandbox.ContainerConfig)) string {
	t.Helper()
	var cfg sandbox.ContainerConfig
	volume(&cfg)
	return cfg.Mounts[0].Source
}

func TestAttackerPlantsNoLinksForSubPaths(t *testing.T) {
	t.Parallel()
	p := newPrison(t, sandbox.PauseConfig{})
	volume := p.volume(t, "/volume")
	p.holds(t, plantAttack, volume)
	source := folder(t, volume)
	for _, readOnly := range []bool{true, false} {
		for _, sub := range append(names(source), "../"+filepath.Base(p.marker), "absolute/../..", "root/tmp", "nothing/../../..") {
			a, err := p.tryStart(t, lookAttack, func(cfg *sandbox.ContainerConfig) {
				cfg.Mounts = append(cfg.Mounts, sandbox.Mount{Kind: sandbox.Bind, Source: source, SubPath: sub, Target: "/in", ReadOnly: readOnly})
			})
			if err == nil {
				t.Run(sub, func(t *testing.T) { a.found(t).held(t) })
			}
			p.untouched(t)
		}
	}
}

// The control: without SubPath's care the links lead to the host.
func TestPlantedLinksLeadToTheHost(t *testing.T) {
	t.Parallel()
	p := newPrison(t, sandbox.PauseConfig{})
	volume := p.volume(t, "/volume")
	p.holds(t, plantAttack, volume)
	for _, name := range []string{"absolute/marker", "relative/marker", "file", "magic/marker"} {
		if content, err := os.ReadFile(filepath.Join(folder(t, volume), name)); err != nil || string(content) != p.secret {
			t.Errorf("%s: %q, %v", name, content, err)
		}
	}
}

func TestAttackerPlantsNoLinksForTargets(t *testing.T) {
	t.Parallel()
	p := newPrison(t, sandbox.PauseConfig{})
	shared := p.volume(t, "/volume")
	p.holds(t, plantAttack, shared)
	image := layer(t, func(dir string) error {
		return os.Symlink(filepath.Dir(p.marker), dir+"/absolute")
	})
	other := p.volume(t, "/other")
	for _, target := range []string{
		"/volume/absolute", "/volume/absolute/in", "/volume/relative/in", "/volume/root", "/volume/root/in", "/volume/up/in", "/volume/magic/in",
		"/volume/cwd/in", "/volume/fd", "/volume/fd/in", "/volume/pid/in", "/volume/file", "/extra/absolute", "/extra/absolute/in", "/volume/../../../in",
	} {
		for _, m := range []sandbox.Mount{
			{Kind: sandbox.Bind, Source: folder(t, other), Target: target},
			{Kind: sandbox.Tmpfs, Target: target},
		} {
			a, err := p.tryStart(t, lookAttack, image, shared, func(cfg *sandbox.ContainerConfig) { cfg.Mounts = append(cfg.Mounts, m) })
			if err == nil {
				t.Run(target, func(t *testing.T) { a.found(t).held(t) })
			}
			p.untouched(t)
		}
	}
}

func TestAttackerSwapsAFolderForALink(t *testing.T) {
	t.Parallel()
	p := newPrison(t, sandbox.PauseConfig{})
	volume := p.volume(t, "/volume")
	swapper := p.start(t, swapAttack, volume)
	source := folder(t, volume)
	nstest.Eventually(t, timeout, func() error { return second(os.Readlink(source + "/link")) })
	started := 0
	for i := range nstest.Sized(10, 200) {
		sub := filepath.Join("swap", filepath.Dir(p.marker))
		mount := sandbox.Mount{Kind: sandbox.Bind, Source: source, SubPath: sub, Target: "/in"}
		if i%2 == 1 {
			mount = sandbox.Mount{Kind: sandbox.Tmpfs, Target: "/volume/" + sub + "/in"}
		}
		a, err := p.tryStart(t, lookAttack, volume, func(cfg *sandbox.ContainerConfig) { cfg.Mounts = append(cfg.Mounts, mount) })
		if err == nil {
			started++
			a.found(t).held(t)
		}
		p.untouched(t)
	}
	if started == 0 {
		t.Error("no container got its volume")
	}
	swapper.found(t).held(t)
}
