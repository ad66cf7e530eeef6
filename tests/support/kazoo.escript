#!/usr/bin/env escript
%% Stores recordings as Kazoo does, with the HTTP client that Kazoo uses, and reads them back.
%% Usage: escript kazoo.escript PORT FILE; prints a line for each case: its name, the status of
%% the upload, that of the read, and whether the bytes are the same.

-mode(compile).

main([Port, File]) ->
    inets:start(),
    {ok, Audio} = file:read_file(File),
    Host = "127.0.0.1:" ++ Port,
    Open = "http://" ++ Host,
    Auth = {"authorization", "Basic " ++ base64:encode_to_string("kazoo:secret")},
    %% Reading back, Kazoo 4.3 and master drop the colon.
    Joined = {"authorization", "Basic " ++ base64:encode_to_string("kazoosecret:")},
    CallId = "a/b?c%d~e<f>g(h)i[j]k\"l:m\\n*o!p'q+r{s}t@10.0.0.1",
    Query = "from=1001%40acme&caller_id_name=Alice%20Smith&call_id=" ++ encode(CallId),
    Plan = "/4f8c2d6ba1e04be39c1d7f60a2b3c4d5/202611-42d71e38/bf2f2b1e.mp3",
    Simple = fun(Name, Target) -> {Name, put, Open ++ Target, Open ++ Target, raw} end,
    Cases =
        [ Simple("plain", "/kzr/call_recording_plain%4010.0.0.1.mp3?" ++ Query)
        , Simple("doubled dot", "/kzr/call_recording_doubled%4010.0.0.1..mp3?" ++ Query)
        , Simple("ugly", "/kzr/call_recording_" ++ encode(CallId) ++ "..mp3?" ++ Query)
        , Simple("no format", "/kzr/call_recording_noformat%4010.0.0.1.?" ++ Query)
        , Simple("recording in query",
                 "/kzr?token=abc&recording=call_recording_query%4010.0.0.1..mp3&" ++ Query)
        , Simple("bare query", "/kzr?a=call_recording_bare%4010.0.0.1..mp3&" ++ Query)
        , {"post", post, Open ++ "/kzr/call_recording_post..mp3?" ++ Query,
           Open ++ "/kzr/call_recording_post..mp3?" ++ Query, raw}
        , {"plan", put, Open ++ "/kzr" ++ Plan, Open ++ "/kzr" ++ Plan ++ Plan ++ "?id=x", raw}
        , {"plan multipart", post, Open ++ "/kzr/m" ++ Plan,
           Open ++ "/kzr/m" ++ Plan ++ "?id=x&name=y", multipart}
        , {"plan base64", post, Open ++ "/kzr/b" ++ Plan, Open ++ "/kzr/b" ++ Plan, base64}
        ],
    [report(Case, Auth, Joined, "audio/mpeg", Audio) || Case <- Cases],
    credentials_test(Open, put, raw, Auth, Joined),
    credentials_test(Open, post, base64, Auth, Joined).

%% How Kazoo tries a storage plan before it takes it: what is stored must be readable.
credentials_test(Open, Method, Form, Auth, Joined) ->
    Random = lists:flatten([io_lib:format("~2.16.0b", [B]) || <<B>> <= crypto_bytes()]),
    Content = list_to_binary("some random content: " ++ Random),
    Path = "/4f8c2d6ba1e04be39c1d7f60a2b3c4d5/" ++ Random ++ "/" ++ Random
        ++ "_test_credentials_file.txt",
    Put = Open ++ "/kzr" ++ Path,
    Get = Put ++ Path ++ "?att_uuid=1&content=some+random+content%3A+" ++ Random,
    Name = "credentials test by " ++ atom_to_list(Method),
    report({Name, Method, Put, Get, Form}, Auth, Joined, "text/plain", Content).

crypto_bytes() -> << <<(rand:uniform(256) - 1)>> || _ <- lists:seq(1, 16) >>.

report({Name, Method, PutUrl, GetUrl, Form}, Auth, Joined, Type, Content) ->
    {BodyType, Body} = body(Form, Type, Content),
    Headers = [{"te", ""}, Auth],
    Options = [{timeout, 60000}, {autoredirect, true}],
    Format = [{body_format, binary}],
    {ok, {{_, Stored, _}, _, _}} =
        httpc:request(Method, {PutUrl, Headers, BodyType, Body}, Options, Format),
    {ok, {{_, Read, _}, _, Got}} =
        httpc:request(get, {GetUrl, [{"te", ""}, Joined]}, Options, Format),
    io:format("~s|~p|~p|~p~n", [Name, Stored, Read, Got =:= Content]).

body(raw, Type, Content) -> {Type, Content};
body(base64, Type, Content) -> body(multipart, Type, base64:encode(Content));
body(multipart, Type, Content) ->
    Boundary = "zJmZlL3idrMDM8nmTLNIgZBR3Au__mEKhsH-z_IR5z7Zz3hJ_2Oytmz8piq6Fukz",
    Part = fun(Name, PartType, Data) ->
        ["\r\n--", Boundary, "\r\ncontent-disposition: form-data; name=", Name,
         "\r\ncontent-type: ", PartType, "\r\n\r\n", Data]
    end,
    Json = <<"{\"call_id\":\"abc@10.0.0.1\",\"from\":\"1001@acme\"}">>,
    Body = [Part("202611-42d71e38", "application/json", Json), Part("bf2f2b1e.mp3", Type, Content),
            "\r\n--", Boundary, "--"],
    {"multipart/form-data; boundary=" ++ Boundary, iolist_to_binary(Body)}.

%% kz_http_util:urlencode/1 of Kazoo 4.
encode(Text) -> lists:flatmap(fun(C) -> encode_char(C) end, Text).

encode_char(C) ->
    case lists:member(C, " \"#%&'+,/:;<=>?@[\\]^{|}") of
        true -> lists:flatten(io_lib:format("%~2.16.0B", [C]));
        false -> [C]
    end.
