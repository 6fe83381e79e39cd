// Package cluster is a cluster of one node that outlives the command that made it: what 'svcproxy sandbox' talks to.
//
// A Cluster, the object, is a node with pods (package kubelet), a host outside, the part of a control plane that they need
// (package proxier/local), and a proxy that is handed in. It needs a program that sandbox.Isolate started. Supervise runs
// one in a process of its own, in namespaces that end with it; Start starts that process, detached, and Down removes
// whatever is left of it.
//
// A sandbox has a folder, which only its user can enter:
//
//	config.json  what the supervisor was asked for
//	record.json  its processes and its cgroup, for whoever cleans up after a crash
//	log          what it says; locked for as long as one of its processes lives
//	socket       where it listens
//	run          where it mounts a file system in memory, which nobody outside sees
//
// A client opens one connection a request. Messages are lines of JSON, each with the number of open files that come with it
// (SCM_RIGHTS). The first is a request with a method and its parameters; the supervisor answers with one or more replies,
// the last of which has done or an error; meanwhile the client may give orders (signals, the size of a terminal), and
// hanging up ends the request.
//
//	status, shutdown            what the sandbox is; end it
//	apply, get, delete, wait    objects
//	set, restart                limits of a container; pods one after the other, a reply for each
//	exec, attach                a program: three pipes come with the request, or a terminal with the first reply
//	log, dial                   the first reply comes with a file, or with a connection into a pod
//	inspect                     a reply with a pidfd for each process, then the pod
package cluster
