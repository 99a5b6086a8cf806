#!/usr/bin/env escript
%%! +S 1:1
%% -*- erlang -*-
%% Runs random trees of OTP's own supervisors through scripted failures and writes down what they did, one tree a
%% line. `make otp-vectors` keeps the output in `vectors.jsonl`; README.md beside this file has the format.
%%
%% The recorder hears of each start from the supervisor that makes it, which waits for the recorder, and of each end
%% by a monitor. A supervisor ends its children one by one, each only when the one before is gone, so that the
%% order in which the recorder hears of ends is the order in which they were made.
-module(otp_vectors).
-mode(compile).
-export([main/1, init/1, log/2, start_worker/1, start_supervisor/1]).

-define(SEED, 20260401).
-define(TREES, 1200).
-define(ROUNDS, 3).
%% Between two rounds; longer by far than the short period, which is longer by far than a round of one tree.
-define(PAUSE_S, 5).
-define(SHORT_PERIOD_S, 2).
-define(LONG_PERIOD_S, 1000000).

-record(worker, {path, restart, shutdown}).
-record(sup, {path, restart, strategy, intensity, period, children}).
-record(tree, {seed, root, steps = [], dead = false}).

main([]) ->
    process_flag(trap_exit, true),
    ok = logger:remove_handler(default),
    ok = logger:add_handler(gave_up, ?MODULE, #{}),
    Trees = lists:foldl(fun round/2, [plant(N) || N <- lists:seq(1, ?TREES)], lists:seq(1, ?ROUNDS)),
    ok = application:ensure_started(stdlib),
    {ok, Stdlib} = application:get_key(stdlib, vsn),
    io:format("{\"otp\":\"~s\",\"stdlib\":\"~s\",\"seed\":~b,\"trees\":~b}~n",
              [erlang:system_info(otp_release), Stdlib, ?SEED, ?TREES]),
    lists:foreach(fun(Tree) -> io:put_chars([tree_json(finish(Tree)), $\n]) end, Trees).

%% All trees have their round, then time passes for all of them.
round(Round, Trees) ->
    Round > 1 andalso timer:sleep(?PAUSE_S * 1000),
    [round_of_tree(Round, Tree) || Tree <- Trees].

round_of_tree(_, #tree{dead = true} = Tree) ->
    Tree;
round_of_tree(1, Tree) ->
    fail_some(Tree);
round_of_tree(_, Tree) ->
    fail_some(add_step({pass, ?PAUSE_S}, Tree)).

fail_some(Tree) ->
    with_random(Tree, fun() -> repeat(1 + pick(4), fun fail/1, Tree) end).

repeat(0, _, Tree) -> Tree;
repeat(N, Do, Tree) -> repeat(N - 1, Do, Do(Tree)).

add_step(Step, #tree{steps = Steps} = Tree) ->
    Tree#tree{steps = [Step | Steps]}.

%% --- random choices, from the tree's own seed ---

with_random(#tree{seed = Seed}, Do) ->
    rand:seed(Seed),
    Tree = Do(),
    Tree#tree{seed = rand:export_seed()}.

%% 0..N-1
pick(N) -> rand:uniform(N) - 1.

one_of(Choices) -> lists:nth(rand:uniform(length(Choices)), Choices).

shuffled(List) ->
    [X || {_, X} <- lists:sort([{rand:uniform(), X} || X <- List])].

plant(N) ->
    Tree = #tree{seed = rand:export_seed_s(rand:seed_s(exsss, {?SEED, N, 0}))},
    with_random(Tree, fun() ->
        Root = random_supervisor([], permanent, 3),
        start_recorder(),
        {ok, _} = start_supervisor(Root),
        _ = take_log(),
        Tree#tree{root = {recorder(), Root}}
    end).

random_supervisor(Path, Restart, Depth) ->
    #sup{path = Path, restart = Restart,
         strategy = one_of([one_for_one, rest_for_one, one_for_all]),
         intensity = intensity(Restart),
         period = one_of([?SHORT_PERIOD_S, ?LONG_PERIOD_S]),
         children = [random_child(Path ++ [Id], Depth) || Id <- lists:seq($a, $a + pick(4))]}.

%% A transient supervisor that gives up is the one place where we differ on purpose: here none does.
intensity(transient) -> 1000;
intensity(_) -> pick(5).

random_child(Path, Depth) ->
    Restart = one_of([permanent, permanent, transient, temporary]),
    case Depth > 1 andalso pick(5) < 2 of
        true -> random_supervisor(Path, Restart, Depth - 1);
        false -> #worker{path = Path, restart = Restart, shutdown = one_of([5000, infinity, brutal_kill])}
    end.

%% --- failures ---

%% One worker ends, or some of one supervisor before it has seen the first end.
fail(#tree{dead = true} = Tree) ->
    Tree;
fail(#tree{root = {Recorder, _}} = Tree) ->
    use_recorder(Recorder),
    case lists:sort(maps:keys(living())) of
        [] -> Tree;
        Paths -> fail(one_of(Paths), Paths, Tree)
    end.

fail(First, Paths, Tree) ->
    Parent = lists:droplast(First),
    Siblings = [Path || Path <- Paths, Path =/= First, lists:droplast(Path) =:= Parent],
    Others = case pick(3) of
        0 -> lists:sublist(shuffled(Siblings), 1 + pick(3));
        _ -> []
    end,
    Failures = [{Path, reason()} || Path <- [First | Others]],
    Chain = [supervisor_pid(lists:sublist(Parent, Len)) || Len <- lists:seq(length(Parent), 0, -1)],
    Dead = inject(hd(Chain), Failures),
    End = await(Chain, Dead),
    add_step({fail, Failures, take_log()}, Tree#tree{dead = End =:= dead}).

reason() ->
    one_of([normal, shutdown, {shutdown, why}, crash, crash, crash, kill, kill]).

%% The supervisor sleeps meanwhile; each exit is in its mailbox before the next is made.
inject(Supervisor, Failures) ->
    ok = sys:suspend(Supervisor),
    Dead = [inject_one(Supervisor, Failure) || Failure <- Failures],
    ok = sys:resume(Supervisor),
    Dead.

inject_one(Supervisor, {Path, Reason}) ->
    #{Path := Pid} = living(),
    ask({expect, Pid}),
    case Reason of
        kill -> exit(Pid, kill);
        _ -> Pid ! {fail, Reason}
    end,
    await_exit_message(Supervisor, Pid),
    Pid.

await_exit_message(Supervisor, Pid) ->
    {messages, Messages} = process_info(Supervisor, messages),
    case lists:any(fun({'EXIT', From, _}) -> From =:= Pid; (_) -> false end, Messages) of
        true -> ok;
        false -> erlang:yield(), await_exit_message(Supervisor, Pid)
    end.

%% Waits until the supervisor has dealt with its dead children, or has died of them and its own has dealt with that.
await([], _) ->
    dead;
await([Supervisor | Above] = Chain, Dead) ->
    try supervisor:which_children(Supervisor) of
        Children ->
            case [Pid || {_, Pid, _, _} <- Children, lists:member(Pid, Dead)] of
                [] -> alive;
                _ -> erlang:yield(), await(Chain, Dead)
            end
    catch
        exit:_ -> await(Above, [Supervisor])
    end.

%% What is left is stopped by whoever started it.
finish(#tree{root = {Recorder, _}, dead = false} = Tree) ->
    use_recorder(Recorder),
    Root = supervisor_pid([]),
    Ref = monitor(process, Root),
    exit(Root, shutdown),
    receive {'DOWN', Ref, process, Root, shutdown} -> ok end,
    add_step({stop, take_log()}, Tree#tree{dead = true});
finish(Tree) ->
    Tree.

%% --- the tree: callbacks of OTP ---

start_supervisor(Sup) ->
    supervisor:start_link(?MODULE, {recorder(), Sup}).

init({Recorder, #sup{path = Path} = Sup}) ->
    use_recorder(Recorder),
    put(path, Path),
    ask({supervisor, Path, self()}),
    Flags = #{strategy => Sup#sup.strategy, intensity => Sup#sup.intensity, period => Sup#sup.period},
    {ok, {Flags, [child_spec(Child) || Child <- Sup#sup.children]}}.

child_spec(#worker{path = Path, restart = Restart, shutdown = Shutdown}) ->
    #{id => Path, start => {?MODULE, start_worker, [Path]}, restart => Restart, shutdown => Shutdown};
child_spec(#sup{path = Path, restart = Restart} = Sup) ->
    #{id => Path, start => {?MODULE, start_supervisor, [Sup]}, restart => Restart, shutdown => infinity,
      type => supervisor}.

start_worker(Path) ->
    Pid = spawn_link(fun() -> receive {fail, Reason} -> exit(Reason) end end),
    ask({start, Path, Pid}),
    {ok, Pid}.

%% Runs in the process that reports, which here is the supervisor itself.
log(#{msg := {report, #{label := {supervisor, shutdown}, report := Report}}}, _) ->
    {reason, reached_max_restart_intensity} = lists:keyfind(reason, 1, Report),
    ask({gave_up, get(path)});
log(_, _) ->
    ok.

%% --- the recorder, one for each tree ---

-record(seen, {living = #{}, supervisors = #{}, refs = #{}, expected = [], log = []}).

start_recorder() ->
    use_recorder(spawn_link(fun() -> record(#seen{}) end)).

use_recorder(Pid) -> put(recorder, Pid).

recorder() -> get(recorder).

living() -> ask(living).

supervisor_pid(Path) -> maps:get(Path, ask(supervisors)).

take_log() -> ask(take_log).

ask(Question) ->
    Ref = make_ref(),
    recorder() ! {ask, self(), Ref, Question},
    receive {Ref, Answer} -> Answer end.

record(Seen) ->
    receive
        {ask, From, Ref, take_log} ->
            Last = all_ends_seen(Seen),
            From ! {Ref, lists:reverse(Last#seen.log)},
            record(Last#seen{log = []});
        {ask, From, Ref, living} ->
            Last = all_ends_seen(Seen),
            From ! {Ref, Last#seen.living},
            record(Last);
        {ask, From, Ref, supervisors} ->
            From ! {Ref, Seen#seen.supervisors},
            record(Seen);
        {ask, From, Ref, Note} ->
            Next = note(Note, Seen),
            From ! {Ref, ok},
            record(Next);
        {'DOWN', Ref, process, Pid, Reason} ->
            record(ended(Ref, Pid, Reason, Seen))
    end.

all_ends_seen(#seen{living = Living} = Seen) ->
    case lists:all(fun erlang:is_process_alive/1, maps:values(Living)) of
        true -> Seen;
        false ->
            receive
                {'DOWN', Ref, process, Pid, Reason} -> all_ends_seen(ended(Ref, Pid, Reason, Seen))
            end
    end.

note({supervisor, Path, Pid}, #seen{supervisors = Supervisors} = Seen) ->
    Seen#seen{supervisors = Supervisors#{Path => Pid}};
note({expect, Pid}, #seen{expected = Expected} = Seen) ->
    Seen#seen{expected = [Pid | Expected]};
note({gave_up, Path}, Seen) ->
    add_line(["gives up ", path_text(Path)], Seen);
note({start, Path, Pid}, #seen{living = Living, refs = Refs} = Seen) ->
    Ref = monitor(process, Pid),
    Next = Seen#seen{living = Living#{Path => Pid}, refs = Refs#{Ref => Path}},
    add_line(["start ", path_text(Path)], Next).

ended(Ref, Pid, Reason, #seen{living = Living, refs = Refs, expected = Expected} = Seen) ->
    {Path, Rest} = maps:take(Ref, Refs),
    Next = Seen#seen{refs = Rest, living = case Living of
        #{Path := Pid} -> maps:remove(Path, Living);
        _ -> Living
    end},
    case {lists:member(Pid, Expected), Reason} of
        {true, _} -> Next#seen{expected = lists:delete(Pid, Expected)};
        {false, shutdown} -> add_line(["stop ", path_text(Path)], Next);
        {false, killed} -> add_line(["kill ", path_text(Path)], Next)
    end.

add_line(Line, #seen{log = Log} = Seen) ->
    Seen#seen{log = [Line | Log]}.

path_text([]) -> "node";
path_text(Path) -> lists:join("/", [[Id] || Id <- Path]).

%% --- JSON; no text needs escaping ---

tree_json(#tree{root = {_, Root}, steps = Steps}) ->
    ["{\"root\":", node_json(Root), ",\"steps\":[",
     lists:join(",", [step_json(Step) || Step <- lists:reverse(Steps)]), "]}"].

node_json(#worker{restart = Restart, shutdown = brutal_kill}) ->
    io_lib:format("[\"~s\",\"kill\"]", [Restart]);
node_json(#worker{restart = Restart, shutdown = infinity}) ->
    io_lib:format("[\"~s\",\"infinity\"]", [Restart]);
node_json(#worker{restart = Restart, shutdown = Ms}) ->
    io_lib:format("[\"~s\",~b]", [Restart, Ms]);
node_json(#sup{} = Sup) ->
    [io_lib:format("[\"~s\",\"~s\",~b,~b,[",
                   [Sup#sup.restart, Sup#sup.strategy, Sup#sup.intensity, Sup#sup.period]),
     lists:join(",", [node_json(Child) || Child <- Sup#sup.children]), "]]"].

step_json({pass, Seconds}) ->
    io_lib:format("{\"pass\":~b}", [Seconds]);
step_json({stop, Log}) ->
    ["{\"stop\":", lines_json(Log), "}"];
step_json({fail, Failures, Log}) ->
    Lines = [[path_text(Path), " ", reason_text(Reason)] || {Path, Reason} <- Failures],
    ["{\"fail\":", lines_json(Lines), ",\"then\":", lines_json(Log), "}"].

reason_text({shutdown, _}) -> "shutdown_why";
reason_text(Reason) -> atom_to_list(Reason).

lines_json(Lines) ->
    ["[", lists:join(",", [[$", Line, $"] || Line <- Lines]), "]"].
